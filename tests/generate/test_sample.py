"""Sampling: the filters against Hugging Face's, the draw against its law, the penalties against sums done by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vitral.errors import VitralError
from vitral.generate import sample
from vitral.generate.request import Sampling
from vitral.generate.sample import Row, choose, draw, narrow, penalise, seeded

SETTINGS = [
    Sampling(temperature=t, top_k=k, top_p=p, min_p=m, repetition_penalty=r)
    for t, k, p, m, r in itertools.product(
        [0.01, 0.7, 1.0, 5.0], [0, 1, 7, 10_000], [1e-6, 0.5, 0.9, 1.0], [0.0, 0.1, 1.0], [1.0, 1.3]
    )
]


def some_logits(vocabulary: int = 97, rows: int = 6) -> Tensor:
    """Rows of every kind that matters: normal, rounded so that ids tie, all equal, steep, one spike, far below 0."""
    logits = torch.randn(rows, vocabulary, generator=seeded(7)) * 3
    logits[1] = logits[1].round()
    logits[2] = 0.0
    logits[3] *= 40
    logits[4] = torch.nn.functional.one_hot(torch.tensor(5), vocabulary) * 1e4
    logits[5] = logits[5].round() - 500
    return logits


def by_hugging_face(logits: Tensor, sampling: Sampling, history: list[int]) -> Tensor:
    """The same settings through transformers' own processors, in the order in which its generate() builds them."""
    from transformers.generation import logits_process as hf

    chain: list = []
    if sampling.repetition_penalty != 1.0:
        chain.append(hf.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature != 1.0:
        chain.append(hf.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chain.append(hf.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        chain.append(hf.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        chain.append(hf.MinPLogitsWarper(sampling.min_p))
    ids = torch.tensor([history] * logits.shape[0])
    for process in chain:
        logits = process(ids, logits)
    return logits


def by_vitral(logits: Tensor, sampling: Sampling, history: list[int]) -> Tensor:
    """Row by row, as `choose` works: that a row alone and a row in a batch give the same bits is part of the claim."""
    rows = [sample.penalise(row, sampling, history[:2], history[2:]) for row in logits]
    return torch.stack([sample.narrow(row, sampling) for row in rows])


def differing(history: list[int]) -> list[Sampling]:
    logits = some_logits()
    return [
        s
        for s in SETTINGS
        if not torch.equal(by_vitral(logits, s, history), by_hugging_face(logits.clone(), s, history))
    ]


def test_what_is_left_equals_hugging_face_to_the_bit() -> None:
    assert differing(history=[3, 5, 5, 17, 96]) == []


def test_what_is_left_equals_hugging_face_over_a_real_sized_vocabulary() -> None:
    logits = torch.randn(2, 49_152, generator=seeded(3)) * 4
    logits[1] = (logits[1] * 8).round() / 8  # thousands of ties
    for sampling in (
        Sampling(temperature=0.7, top_p=0.95),
        Sampling(temperature=1.0, top_k=50, top_p=0.9, min_p=0.05),
        Sampling(temperature=1.5, min_p=0.02, repetition_penalty=1.1),
    ):
        history = list(range(0, 49_152, 97))
        assert torch.equal(by_vitral(logits, sampling, history), by_hugging_face(logits.clone(), sampling, history))


def test_top_p_leaves_an_id_even_where_the_rounded_sum_of_all_stays_below_one() -> None:
    for seed in range(20):
        assert int((sample.top_p(torch.randn(3000, generator=seeded(seed)) / 12, 1e-7) > -torch.inf).sum()) == 1


def top_p_before_temperature(logits: Tensor, sampling: Sampling) -> Tensor:
    return sample.temperature(sample.top_p(logits, sampling.top_p), sampling.temperature)


def min_p_first(logits: Tensor, sampling: Sampling) -> Tensor:
    floored = sample.min_p(logits, sampling.min_p) if sampling.min_p else logits
    return narrow(floored, Sampling(temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p))


def penalty_blind_to_sign(logits: Tensor, ids: list[int], penalty: float) -> Tensor:
    return torch.where(sample._times(ids, logits) > 0, logits / penalty, logits)


def penalty_once_per_occurrence(logits: Tensor, ids: list[int], penalty: float) -> Tensor:
    times = sample._times(ids, logits)
    return torch.where(logits < 0, logits * penalty**times, logits / penalty**times)


def exactly_k(logits: Tensor, k: int) -> Tensor:
    best = logits.topk(min(k, logits.shape[-1]))
    return torch.full_like(logits, -torch.inf).scatter(-1, best.indices, best.values)


def top_p_from_the_top(logits: Tensor, p: float) -> Tensor:
    falling, order = logits.sort(dim=-1, descending=True)
    probabilities = falling.softmax(dim=-1)
    drop = probabilities.cumsum(dim=-1) - probabilities >= p
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("narrow", top_p_before_temperature),
        ("narrow", min_p_first),
        ("repetition_penalty", penalty_blind_to_sign),
        ("repetition_penalty", penalty_once_per_occurrence),
        ("top_k", exactly_k),
        ("top_p", top_p_from_the_top),
        ("min_p", lambda logits, floor: logits.masked_fill(logits.softmax(-1) < floor, -torch.inf)),
        ("temperature", lambda logits, value: logits * value),
    ],
)
def test_the_comparison_catches_a_wrong_filter(name: str, mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, name, mutant)
    assert differing(history=[3, 5, 5, 17, 96])


def test_penalties_by_hand() -> None:
    logits = torch.tensor([2.0, -2.0, 1.0, 0.0, 3.0])
    # Prompt: 0 and 1. Output: 1, 2, 2. Repetition sees 0, 1, 2; the other two see 1 once and 2 twice.
    asked = Sampling(repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25)
    after = penalise(logits, asked, prompt=[0, 1], output=[1, 2, 2])
    assert after.tolist() == [1.0, -4.0 - 0.5 - 0.25, 0.5 - 2 * 0.5 - 0.25, 0.0, 3.0]
    assert logits.tolist() == [2.0, -2.0, 1.0, 0.0, 3.0]
    inviting = Sampling(frequency_penalty=-0.5, presence_penalty=-1.0)
    assert penalise(torch.zeros(3), inviting, prompt=[], output=[1, 1]).tolist() == [0.0, 2.0, 0.0]


def test_presence_and_frequency_do_not_look_at_the_prompt() -> None:
    asked = Sampling(frequency_penalty=1.0, presence_penalty=1.0)
    assert penalise(torch.zeros(4), asked, prompt=[0, 1, 2], output=[3]).tolist() == [0.0, 0.0, 0.0, -2.0]


def test_history_ids_without_a_logit_are_passed_over() -> None:
    asked = Sampling(repetition_penalty=2.0, frequency_penalty=1.0, presence_penalty=1.0)
    assert penalise(torch.ones(3), asked, prompt=[-1, 3, 10**9], output=[3, -200]).tolist() == [1.0, 1.0, 1.0]


def test_a_greedy_penalty_changes_the_choice_but_not_the_reported_log_probability() -> None:
    logits = torch.tensor([[3.0, 2.9, 0.0]])
    [choice] = choose(logits, [Row(sampling=Sampling(repetition_penalty=2.0, candidates=2), output=[0])])
    expected = logits[0].log_softmax(-1).tolist()
    assert choice.id == 1
    assert choice.logprob == expected[1]
    assert choice.candidates == ((0, expected[0]), (1, expected[1]))


@pytest.mark.parametrize("temperature", [0.0, 1e-9])
def test_greedy_takes_the_lowest_of_equal_ids(temperature: float) -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 5.0], [7.0, 7.0, 0.0, 7.0]])
    asked = Sampling(temperature=temperature, candidates=4)
    chosen = choose(logits, [Row(sampling=asked), Row(sampling=asked)])
    assert [choice.id for choice in chosen] == [1, 0]
    assert [[i for i, _ in choice.candidates] for choice in chosen] == [[1, 2, 3, 0], [0, 1, 3, 2]]


def test_candidates_are_ranked_by_logit_where_rounding_ties_their_log_probabilities() -> None:
    logits = torch.full((1, 1000), 1e-7)
    logits[0, 400] = 2e-7
    [choice] = choose(logits, [Row(sampling=Sampling(candidates=3))])
    assert choice.candidates[0][1] == choice.candidates[1][1], "the fixture no longer ties"
    assert choice.id == 400
    assert [i for i, _ in choice.candidates] == [400, 0, 1]


def test_log_probabilities_are_of_the_model_whatever_the_settings() -> None:
    logits = some_logits()
    hot = Sampling(temperature=3.0, top_k=2, top_p=0.5, min_p=0.3, presence_penalty=1.0, candidates=20)
    expected = logits.double().log_softmax(-1)
    rows = [Row(sampling=hot, generator=seeded(i), output=[1, 2]) for i in range(len(logits))]
    for i, choice in enumerate(choose(logits, rows)):
        assert choice.logprob == pytest.approx(float(expected[i, choice.id]), abs=1e-4, rel=1e-6)
        assert [p for _, p in choice.candidates] == pytest.approx(
            expected[i].sort(descending=True).values[:20].tolist(), abs=1e-4, rel=1e-6
        )


def test_padding_ids_have_no_probability() -> None:
    logits = torch.randn(1, 50, generator=seeded(1))
    logits[:, 40:] = 30.0
    for asked in (Sampling(candidates=20), Sampling(temperature=50.0, candidates=20)):
        for seed in range(50):
            [choice] = choose(logits, [Row(sampling=asked, generator=seeded(seed))], vocab_limit=40)
            assert choice.id < 40
            assert all(i < 40 for i, _ in choice.candidates)
            assert choice.logprob == float(logits[0, :40].log_softmax(-1)[choice.id])


def test_more_candidates_than_ids_gives_them_all() -> None:
    [choice] = choose(torch.tensor([[0.0, 1.0, 2.0]]), [Row(sampling=Sampling(candidates=20))])
    assert [i for i, _ in choice.candidates] == [2, 1, 0]
    assert sum(math.exp(p) for _, p in choice.candidates) == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("asked", [Sampling(), Sampling(temperature=1.0)])
def test_broken_logits_are_refused(bad: float, asked: Sampling) -> None:
    logits = torch.zeros(2, 5)
    logits[1, 3] = bad
    with pytest.raises(VitralError, match="NaN or infinite"):
        choose(logits, [Row(sampling=asked, generator=seeded(i)) for i in range(2)])


@pytest.mark.parametrize(
    ("logit", "asked"),
    [
        (1.0, Sampling(repetition_penalty=1e-45)),
        (1.0, Sampling(repetition_penalty=1e-45, temperature=1.0)),
        (3e38, Sampling(temperature=1e-3)),
    ],
)
def test_settings_that_overflow_are_refused(logit: float, asked: Sampling) -> None:
    with pytest.raises(VitralError, match="NaN or infinite"):
        choose(torch.full((1, 3), logit), [Row(sampling=asked, generator=seeded(0), prompt=[1])])


def test_rows_that_do_not_fit_the_call_are_refused() -> None:
    with pytest.raises(ValueError, match="generator"):
        choose(torch.zeros(1, 3), [Row(sampling=Sampling(temperature=1.0))])
    with pytest.raises(ValueError, match="2 rows of logits for 1"):
        choose(torch.zeros(2, 3), [Row(sampling=Sampling())])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_type_is_worked_on_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(1, 100, generator=seeded(2)).to(dtype)
    rows = [Row(sampling=Sampling(candidates=5))]
    assert choose(logits, rows) == choose(logits.float(), rows)


MIXED = [
    Sampling(),
    Sampling(temperature=1.0),
    Sampling(temperature=0.8, top_p=0.9),
    Sampling(temperature=1.3, top_k=20, min_p=0.05, candidates=4),
    Sampling(temperature=2.0, repetition_penalty=1.2, presence_penalty=0.5),
]


def answer(neighbours: list[int], *, seed: int, sampling: Sampling, place: int, steps: int = 12) -> list:
    """What one request draws step by step while `neighbours` (seeds) come with it, it sitting at `place`."""
    rows = [Row(sampling=MIXED[s % len(MIXED)], generator=seeded(s)) for s in neighbours]
    rows.insert(place, Row(sampling=sampling, generator=seeded(seed), prompt=[1, 2, 3]))
    source = seeded(11)
    chosen = []
    for _ in range(steps):
        own = torch.randn(1, 300, generator=source) * 2
        logits = torch.randn(len(rows), 300, generator=seeded(len(rows)))
        logits[place] = own
        choices = choose(logits, rows)
        rows = [replace(row, output=[*row.output, one.id]) for row, one in zip(rows, choices, strict=True)]
        chosen.append(choices[place])
    return chosen


@pytest.mark.parametrize("sampling", MIXED)
def test_a_draw_does_not_depend_on_the_batch(sampling: Sampling) -> None:
    alone = answer([], seed=5, sampling=sampling, place=0)
    assert answer([5, 5, 5], seed=5, sampling=sampling, place=3) == alone
    assert answer(list(range(9)), seed=5, sampling=sampling, place=4) == alone
    if sampling.temperature:
        assert answer([], seed=6, sampling=sampling, place=0) != alone


def test_the_same_seed_gives_the_same_draws_and_no_seed_gives_fresh_ones() -> None:
    asked = Sampling(temperature=1.0)

    def ten(seed: int | None) -> list[int]:
        row = Row(sampling=asked, generator=seeded(seed))
        return [choose(torch.zeros(1, 10_000), [row])[0].id for _ in range(10)]

    first = ten(4)
    torch.manual_seed(1)
    assert ten(4) == first
    assert ten(None) != ten(None)


def test_every_seed_that_a_request_may_carry_works() -> None:
    for seed in (-(2**63), -1, 0, 2**32, 2**64 - 1):
        assert choose(torch.zeros(1, 9), [Row(sampling=Sampling(temperature=1.0, seed=seed), generator=seeded(seed))])


DRAWS = 100_000
LAWS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.3),
    Sampling(temperature=4.0),
    Sampling(temperature=1.0, top_k=5),
    Sampling(temperature=0.8, top_k=50),
    Sampling(temperature=1.0, top_p=0.5),
    Sampling(temperature=1.5, top_p=0.95),
    Sampling(temperature=1.0, min_p=0.2),
    Sampling(temperature=2.0, top_k=40, top_p=0.9, min_p=0.02),
    Sampling(temperature=1.0, repetition_penalty=1.5),
    Sampling(temperature=0.7, repetition_penalty=0.8, top_p=0.8),
    Sampling(temperature=1.0, top_p=1e-6),
]
HISTORY = [0, 3, 3, 20, 41]


def p_value(observed: Tensor, expected: Tensor) -> float:
    """Pearson's chi-squared over counts [V], rare ids together until each bin expects 5; an impossible id gives 0."""
    if bool(observed[expected == 0].any()):
        return 0.0
    rising = expected.argsort()
    rising = rising[expected[rising] > 0]
    group = (expected[rising].cumsum(0) / 5).floor().clamp(max=float(len(rising)))
    group = torch.where(expected[rising] >= 5, torch.arange(len(rising)) + group.max() + 1, group)
    _, group = group.unique(return_inverse=True)
    seen, due = (
        torch.zeros(int(group.max()) + 1).double().index_add(0, group, x[rising]) for x in (observed, expected)
    )
    statistic = ((seen - due) ** 2 / due).sum()
    half_freedom = torch.tensor((len(due) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half_freedom, statistic / 2)) if len(due) > 1 else 1.0


def law(sampling: Sampling, logits: Tensor) -> Tensor:
    """Probabilities [V] by Hugging Face's processors."""
    return by_hugging_face(logits[None].clone(), sampling, HISTORY)[0].double().softmax(-1)


def counts(ids: list[int], vocabulary: int) -> Tensor:
    return torch.tensor(ids).bincount(minlength=vocabulary).double()


@pytest.mark.parametrize("sampling", LAWS)
def test_draws_follow_the_law(sampling: Sampling) -> None:
    logits = torch.randn(64, generator=seeded(21)) * 2
    ids = draw(narrow(penalise(logits, sampling, HISTORY, []), sampling), seeded(99), DRAWS)
    assert p_value(counts(ids, 64), law(sampling, logits) * DRAWS) > 1e-4


def test_first_draws_of_neighbouring_seeds_follow_the_law() -> None:
    logits = torch.randn(16, generator=seeded(22))
    sampling = Sampling(temperature=0.9, top_p=0.9)
    ids = [choose(logits[None], [Row(sampling=sampling, generator=seeded(seed))])[0].id for seed in range(3000)]
    assert p_value(counts(ids, 16), law(sampling, logits) * len(ids)) > 1e-4


def test_the_chi_squared_test_sees_a_law_that_is_a_little_off() -> None:
    logits = torch.randn(64, generator=seeded(21)) * 2
    for right, wrong in (
        (Sampling(temperature=1.0), Sampling(temperature=1.05)),
        (Sampling(temperature=1.0, top_p=0.9), Sampling(temperature=1.0, top_p=0.88)),
    ):
        ids = draw(narrow(penalise(logits, wrong, HISTORY, []), wrong), seeded(99), DRAWS)
        assert p_value(counts(ids, 64), law(right, logits) * DRAWS) < 1e-4


def test_p_values_are_uniform_when_the_law_holds() -> None:
    logits = torch.randn(40, generator=seeded(23)) * 2
    expected = logits.double().softmax(-1) * 2000
    p_values = [p_value(counts(draw(logits, seeded(i), 2000), 40), expected) for i in range(200)]
    assert 0.4 < sum(p_values) / len(p_values) < 0.6
    assert sum(p < 0.1 for p in p_values) < 40


def test_the_draw_inverts_the_distribution_function(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-53], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: numbers)
    logits = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0]).log()
    assert draw(logits, seeded(0), len(numbers)) == [1, 1, 3, 3, 4, 4]
    numbers = torch.tensor([0.25, 0.5], dtype=torch.float64)
    assert draw(torch.zeros(4), seeded(0), 2) == [1, 2], "a sum that equals the number is not yet past it"
    numbers = torch.tensor([1 - 1e-8, 1 - 1e-9], dtype=torch.float64)
    assert draw(torch.tensor([0.0, -20.0]), seeded(0), 2) == [0, 1], "float32 cannot tell these two apart"
    numbers = torch.tensor([1 - 2**-53], dtype=torch.float64)
    for seed in range(20):  # rounded sums may end below the largest number there is
        assert draw(torch.randn(3000, generator=seeded(seed)), seeded(0)) == [2999]


def test_many_draws_at_once_are_the_draws_one_by_one() -> None:
    logits = torch.randn(500, generator=seeded(24))
    one_by_one, at_once = seeded(8), seeded(8)
    assert [draw(logits, one_by_one)[0] for _ in range(100)] == draw(logits, at_once, 100)


def test_banned_ids_are_never_chosen_and_weigh_nothing() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0]])
    (greedy,) = choose(logits, [Row(sampling=Sampling(candidates=4))], banned={0, 2})
    assert greedy.id == 1
    assert [id for id, _ in greedy.candidates[:2]] == [1, 3]
    assert math.exp(greedy.candidates[0][1]) + math.exp(greedy.candidates[1][1]) == pytest.approx(1)
    assert all(logprob < -1e20 for _, logprob in greedy.candidates[2:])
    warm = Sampling(temperature=100.0, repetition_penalty=50.0, frequency_penalty=9.0)
    for seed in range(200):
        row = Row(sampling=warm, generator=seeded(seed), prompt=[0, 2], output=[0, 2, 1])
        assert choose(logits, [row], banned={0, 2})[0].id in (1, 3)
