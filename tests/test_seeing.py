"""Models that see, as people hold them: a picture in a chat, classes of a picture, pictures among texts."""

from __future__ import annotations

import base64
import io
import json
import resource
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from fastapi.testclient import TestClient
from PIL import Image

import vitral
from tests.artefacts import artefact
from tests.families.parity import fill
from tests.families.vision import put_right
from tests.image.test_read import bomb
from vitral.cli import common, generate
from vitral.errors import CheckpointError, VitralError
from vitral.pictures import take
from vitral.serve import build_app

SIDE, PLACES = 56, 4


def picture(seed: int, width: int = 90, height: int = 70) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def made(model: Any, folder: Path) -> Any:
    torch.manual_seed(0)
    model = model.eval()
    fill(model, {})
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """A tiny Gemma 3 that sees, with the real tokenizer and template: (theirs, their processor, ours)."""
    source, folder = artefact("gemma3"), tmp_path_factory.mktemp("gemma")
    text = {
        "vocab_size": 262208,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }
    sight = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 14,
        "vision_use_head": False,
    }
    config = hf.Gemma3Config(
        text_config=text,
        vision_config=sight,
        mm_tokens_per_image=PLACES,
        attn_implementation="eager",
        bos_token_id=2,
        eos_token_id=1,
    )
    theirs = made(hf.Gemma3ForConditionalGeneration(config), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    tokenizer = hf.AutoTokenizer.from_pretrained(
        folder, boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>"
    )
    images = hf.Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    images.save_pretrained(folder)
    processor = hf.Gemma3Processor(images, tokenizer, chat_template=tokenizer.chat_template, image_seq_length=PLACES)
    return theirs, processor, vitral.load(folder)


def chat(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def asked(theirs: Any, processor: Any, messages: Any, images: list[Any], count: int) -> tuple[list[int], list[int]]:
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=text, images=images, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        out = theirs.generate(**inputs, max_new_tokens=count, do_sample=False)
    length = inputs["input_ids"].shape[1]
    return inputs["input_ids"][0].tolist(), out[0, length:].tolist()


def test_a_picture_in_a_chat(gemma: tuple[Any, Any, Any]) -> None:
    theirs, processor, lm = gemma
    first, second = picture(1), picture(2, 40, 120)
    bare = chat(
        {"type": "text", "text": "Compare "},
        {"type": "image"},
        {"type": "text", "text": " and "},
        {"type": "image"},
    )
    url = "data:image/png;base64," + base64.b64encode(png(second)).decode()
    ours = chat(
        {"type": "text", "text": "Compare "},
        {"type": "image", "image": first},
        {"type": "text", "text": " and "},
        {"type": "image_url", "image_url": {"url": url}},
    )
    prompt, answer = asked(theirs, processor, bare, [first, second], 12)
    found = lm.generate(ours, max_tokens=12, temperature=0.0)
    assert list(found.prompt_ids) == prompt
    assert prompt.count(262144) == 2 * PLACES
    assert list(found.ids) == answer
    swapped = lm.generate(chat(*[{"type": "image", "image": one} for one in (second, first)]), max_tokens=12)
    assert swapped.ids != found.ids


def test_logits_with_pixels(gemma: tuple[Any, Any, Any]) -> None:
    theirs, _, lm = gemma
    image = picture(3)
    ids = lm.encode_prompt(chat({"type": "image", "image": image}, {"type": "text", "text": "What is it?"}))
    pixels = torch.from_numpy(np.stack(ids.pictures))
    types = (torch.tensor([ids]) == 262144).long()
    with torch.no_grad():
        want = theirs(input_ids=torch.tensor([ids]), pixel_values=pixels, token_type_ids=types).logits
    for given in (pixels, [image], [png(image)]):
        assert (lm.logits(list(ids), pixel_values=given) - want).abs().max() < 1e-5
    assert (lm.logits(list(ids)) - want).abs().max() > 1e-2


def test_what_a_user_types_is_no_picture(gemma: tuple[Any, Any, Any]) -> None:
    _, _, lm = gemma
    typed = lm.encode_prompt(chat({"type": "text", "text": "<start_of_image><image_soft_token>"}))
    assert 262144 not in typed
    with_picture = chat({"type": "text", "text": "<image_soft_token>"}, {"type": "image", "image": picture(1)})
    assert list(lm.encode_prompt(with_picture)).count(262144) == PLACES


def test_pictures_that_cannot_be(gemma: tuple[Any, Any, Any], tmp_path: Path) -> None:
    _, _, lm = gemma
    (tmp_path / "cut.png").write_bytes(png(picture(1))[:300])
    parts: dict[str, Any] = {
        "damaged": {"type": "image", "path": tmp_path / "cut.png"},
        "no file": {"type": "image", "path": tmp_path / "none.png"},
        "addresses are not fetched": {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        "holds no picture": {"type": "image"},
        "not valid base64": {"type": "image", "base64": "§"},
    }
    for said, part in parts.items():
        with pytest.raises(VitralError, match=said):
            lm.generate(chat(part), max_tokens=1)
    with pytest.raises(VitralError, match="more than 16 images"):
        take(chat(*[{"type": "image", "image": picture(1)}] * 17))
    with pytest.raises(VitralError, match="keeps 0 places"):
        lm.logits([2, 3], pixel_values=[picture(1)])
    with pytest.raises(VitralError, match="there are no images"):
        lm.logits([2, 3], pixel_values=[])
    whole = torch.zeros(1, 3, SIDE, SIDE)
    for bad in (
        torch.zeros(3, 4),
        whole[:0],
        whole[:, :1],
        whole[..., :-14],
        whole.to(torch.uint8),
        whole / 0,
        np.array(["a"]),
    ):
        with pytest.raises(VitralError, match=r"pixel_values has shape.* \[I, 3, 56, 56\]"):
            lm.logits([2, 3], pixel_values=bad)


def test_parts_that_are_neither_text_nor_picture_are_not_dropped() -> None:
    url = "data:image/png;base64," + base64.b64encode(png(picture(1))).decode()
    for part, kind in (({"type": "input_image", "image_url": url}, "input_image"), ("look", "str"), (None, "NoneType")):
        with pytest.raises(VitralError, match=f"a part of type '{kind}'"):
            take(chat({"type": "text", "text": "a"}, part))
    assert take(chat({"type": "text", "text": "a"}, {"text": "b"}))[1] == []
    assert take(chat({"type": "image", "image": url}))[1] == [url]


def test_settings_that_do_not_fit_the_model(
    gemma: tuple[Any, Any, Any], mllama: tuple[Any, Any, Any], tmp_path: Path
) -> None:
    for lm, change in ((gemma[2], "size"), (mllama[2], "size"), (mllama[2], "max_image_tiles")):
        folder = lm.save(tmp_path / f"{lm.name}-{change}")
        file = folder / "preprocessor_config.json"
        wrong: Any = 2 if change == "max_image_tiles" else {"height": 42, "width": 42}
        file.write_text(json.dumps(json.loads(file.read_text()) | {change: wrong}))
        with pytest.raises(CheckpointError, match=f"preprocessor_config.json: '{change}'"):
            vitral.load(folder)


@pytest.mark.parametrize("kind", ["gemma", "mllama"])
def test_saved_and_loaded_it_sees_the_same(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    lm = request.getfixturevalue(kind)[2]
    again = vitral.load(lm.save(tmp_path / "again"))
    question = chat({"type": "image", "image": picture(1, 200, 90)}, {"type": "text", "text": "What is it?"})
    assert again.pictures.prepare == lm.pictures.prepare
    want = lm.generate(question, max_tokens=6, temperature=0.0)
    assert again.generate(question, max_tokens=6, temperature=0.0).ids == want.ids


def test_several_prompts_with_pictures_together(gemma: tuple[Any, Any, Any]) -> None:
    _, _, lm = gemma
    see, look = ({"type": "image", "image": picture(seed)} for seed in (1, 2))
    words = {"type": "text", "text": "What is it, and where on earth was it made?"}
    prompts = [lm.encode_prompt(chat(*parts)) for parts in ([see, words], [words], [words, look, see], [look])]
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0.0}
    together = lm.generate(prompts, **options)
    assert [answer.ids for answer in together] == [lm.generate(prompt, **options).ids for prompt in prompts]


def test_a_picture_over_http(gemma: tuple[Any, Any, Any]) -> None:
    _, _, lm = gemma
    image = png(picture(6))
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"model": lm.name, "messages": [{"role": "user", "content": parts}], "max_tokens": 6, "temperature": 0}
    want = lm.generate(chat(parts[0], {"type": "image", "image": image}), max_tokens=6, temperature=0.0)
    with TestClient(build_app(lm), base_url="http://localhost") as http:
        answer = http.post("/v1/chat/completions", json={**body, "return_prompt": True})
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == want.text
        assert answer.json()["usage"]["prompt_tokens"] == len(want.prompt_ids)
        cut = "data:image/png;base64," + base64.b64encode(image[:300]).decode()
        for said, bad in {"data:image": "http://127.0.0.1:1/a.png", "damaged": cut}.items():
            parts[1] = {"type": "image_url", "image_url": {"url": bad}}
            refused = http.post("/v1/chat/completions", json=body)
            assert refused.status_code == 400
            assert said in refused.text


def test_what_is_sent_as_a_picture_is_judged_before_it_costs_anything(gemma: tuple[Any, Any, Any]) -> None:
    """A bomb is refused undecoded, an address is never asked, and a large body is cut off with a word."""
    _, _, lm = gemma

    def url(data: bytes, kind: str = "png") -> str:
        return f"data:image/{kind};base64," + base64.b64encode(data).decode()

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        TestClient(build_app(lm), base_url="http://localhost") as http,
    ):
        listener.setblocking(False)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/a.png"
        svg = f"<svg xmlns='http://www.w3.org/2000/svg'><image href='{address}'/></svg>".encode()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for bad, said in (
            (url(bomb(30000, 30000)), "too many pixels"),
            (address, "fetches nothing"),
            (address.replace("http", "https", 1), "fetches nothing"),
            ("file:///etc/passwd", "fetches nothing"),
            (base64.b64encode(png(picture(1))).decode(), "must be a data:image"),
            (url(svg, "svg+xml"), "not a picture"),
            (url(b""), "empty"),
        ):
            part = {"type": "image_url", "image_url": {"url": bad, "detail": "low"}}
            body = {"model": lm.name, "messages": chat(part), "max_tokens": 1}
            answer = http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 400
            assert said in answer.json()["error"]["message"]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
        with pytest.raises(BlockingIOError):  # nobody has knocked
            listener.accept()
        large = chat({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (17 * 2**20)}})
        body = {"model": lm.name, "messages": large}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 413
        assert "larger than 16777216 bytes" in answer.json()["error"]["message"]


def test_choices_and_streams_with_a_picture(gemma: tuple[Any, Any, Any]) -> None:
    _, _, lm = gemma
    url = "data:image/png;base64," + base64.b64encode(png(picture(1))).decode()
    messages = chat({"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": url, "detail": "high"}})
    ids = lm.encode_prompt(messages)
    want = lm.generate(ids, max_tokens=4, temperature=0.0)
    body = {"model": lm.name, "messages": messages, "max_tokens": 4, "temperature": 0, "logprobs": True, "n": 2}
    body["return_prompt"] = True
    with TestClient(build_app(lm), base_url="http://localhost") as http:
        answer = http.post("/v1/chat/completions", json=body).json()
        assert [choice["message"]["content"] for choice in answer["choices"]] == [want.text] * 2
        for choice in answer["choices"]:
            assert [token["id"] for token in choice["logprobs"]["content"]] == list(want.ids)
        assert answer["prompt_text"].count("<image_soft_token>") == PLACES
        assert answer["usage"] == {"prompt_tokens": len(ids), "completion_tokens": 8, "total_tokens": len(ids) + 8}
        stream = http.post("/v1/chat/completions", json={**body, "n": 1, "stream": True}).text
    events = [json.loads(line[6:]) for line in stream.split("\n\n") if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == want.text


def test_pictures_on_the_command_line(
    gemma: tuple[Any, Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, lm = gemma
    file = tmp_path / "a.png"
    file.write_bytes(png(picture(1)))
    monkeypatch.setattr(common, "load", lambda *_, **__: lm)
    want = lm.generate(chat({"type": "image", "path": file}, {"type": "text", "text": "hi"}), max_tokens=4).text
    generate.verb("gemma", "hi", max_tokens=4, image=[str(file)])
    assert capsys.readouterr().out == want + "\n"
    monkeypatch.setattr(common, "load", lambda *_, **__: pytest.fail("it was loaded"))
    for bad, said in (("https://example.org/a.png", "nothing is fetched"), (str(tmp_path / "b.png"), "no file")):
        with pytest.raises(VitralError, match=said):
            generate.verb("gemma", "hi", image=[bad])
    with pytest.raises(VitralError, match="Leave out --raw"):
        generate.verb("gemma", "hi", image=[str(file)], raw=True)
    blind = SimpleNamespace(name="blind", pictures=None, chat=None)
    monkeypatch.setattr(common, "load", lambda *_, **__: blind)
    with pytest.raises(VitralError, match="blind sees no pictures"):
        generate.verb("blind", "hi", image=[str(file)])


MLLAMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<|image|>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


@pytest.fixture(scope="module")
def mllama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """A tiny Llama that looks at tiles, with the real tokenizer: (theirs, their processor, ours)."""
    source, folder = artefact("llama3_1"), tmp_path_factory.mktemp("mllama")
    text = {"vocab_size": 128256, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "cross_attention_layers": [1, 3]}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "max_position_embeddings": 512}
    text |= {"bos_token_id": 128000, "eos_token_id": 128009, "pad_token_id": 128004, "tie_word_embeddings": False}
    sight = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_global_layers": 1}
    sight |= {"attention_heads": 2, "image_size": 28, "patch_size": 14, "intermediate_layers_indices": [1, 2]}
    sight |= {"max_num_tiles": 4, "vision_output_dim": 48}
    config = hf.MllamaConfig(text_config=text, vision_config=sight, image_token_index=128256)
    config._attn_implementation = "eager"
    theirs = made(hf.MllamaForConditionalGeneration(config), folder)
    put_right(theirs)
    tokenizer = hf.AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|image|>"]})
    assert tokenizer.convert_tokens_to_ids("<|image|>") == 128256
    tokenizer.image_token, tokenizer.image_token_id = "<|image|>", 128256
    tokenizer.chat_template = MLLAMA_CHAT
    tokenizer.save_pretrained(folder)
    images = hf.MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=4)
    images.save_pretrained(folder)
    return theirs, hf.MllamaProcessor(images, tokenizer, chat_template=MLLAMA_CHAT), vitral.load(folder)


def test_a_picture_in_tiles(mllama: tuple[Any, Any, Any]) -> None:
    theirs, processor, lm = mllama
    first, second = picture(1, 60, 20), picture(2, 50, 55)
    words = {"type": "text", "text": "What is on the right of it?"}
    for shown in ([first], [first, second]):
        bare = chat({"type": "text", "text": "Look: "}, *[{"type": "image"} for _ in shown], words)
        prompt, answer = asked(theirs, processor, bare, shown, 10)
        ours = chat({"type": "text", "text": "Look: "}, *[{"type": "image", "image": one} for one in shown], words)
        found = lm.generate(ours, max_tokens=10, temperature=0.0)
        assert list(found.prompt_ids) == prompt
        assert list(found.ids) == answer
    blind = chat(words)
    with torch.no_grad():
        prompt = lm.encode_prompt(blind)
        want = theirs.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False)[0, len(prompt) :].tolist()
    assert list(lm.generate(blind, max_tokens=10, temperature=0.0).ids) == want


def test_classes_of_a_picture(tmp_path: Path) -> None:
    config = hf.ViTConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        id2label={i: f"label {i}" for i in range(7)},
        label2id={f"label {i}": i for i in range(7)},
    )
    theirs = made(hf.ViTForImageClassification(config), tmp_path / "v")
    processor = hf.ViTImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "v")
    lm = vitral.load(tmp_path / "v")
    image = picture(5)
    with torch.no_grad():
        want = theirs(**processor(image, return_tensors="pt")).logits[0].softmax(-1)
    found = lm.classify(image, top=3)
    assert [label for label, _ in found] == [f"label {i}" for i in want.topk(3).indices.tolist()]
    assert [p for _, p in found] == pytest.approx(want.topk(3).values.tolist(), abs=1e-5)
    assert lm.kind == "image"
    for top in (0, -1, 1.5, None):
        with pytest.raises(VitralError, match="top is"):
            lm.classify(image, top=top)  # type: ignore[arg-type]
    with pytest.raises(VitralError, match="nothing to serve"):
        build_app(lm)
    with pytest.raises(VitralError, match="no use for input_ids"):
        lm.logits([1, 2])
    with pytest.raises(VitralError, match="does not generate"):
        lm.generate([1])


def test_pictures_among_texts(tmp_path: Path) -> None:
    text = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 12, "eos_token_id": 59, "bos_token_id": 0}
    sight = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    sight |= {"image_size": 32, "patch_size": 8}
    theirs = made(hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=sight, projection_dim=8)), tmp_path / "c")
    processor = hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "c")
    lm = vitral.load(tmp_path / "c")
    images, ids = [picture(7), picture(8, 33, 90)], torch.tensor([[0, 5, 6, 59], [0, 9, 59, 59], [0, 7, 8, 59]])
    with torch.no_grad():
        want = theirs(input_ids=ids, **processor(images, return_tensors="pt"))
    assert (lm.logits(ids, pixel_values=images) - want.logits_per_text).abs().max() < 1e-4
    assert np.abs(lm.embed_images(images) - want.image_embeds.numpy()).max() < 1e-5
    assert lm.kind == "two towers"
    with pytest.raises(VitralError, match=r"match\(\) with texts"):
        lm.classify(images[0])
    with pytest.raises(VitralError, match="there are no images"):
        lm.embed_images([])
    with pytest.raises(VitralError, match="there are no texts"):
        lm.match(images, [])
    with pytest.raises(VitralError, match=r"finite numbers \[I, 3, H, W\]"):
        lm.embed_images(torch.zeros(1, 4, 32, 32))  # type: ignore[arg-type]
    with pytest.raises(VitralError, match="nothing to serve"):
        build_app(lm)
    with pytest.raises(VitralError, match="two towers"):
        lm.hidden([1, 2])


def test_rows_with_different_pictures_are_as_if_alone(mllama: tuple[Any, Any, Any]) -> None:
    _, _, lm = mllama
    words, image = {"type": "text", "text": "What is it?"}, {"type": "image", "image": picture(1)}
    prompts = [lm.encode_prompt(chat(*parts)) for parts in ([image, words], [words], [image, image, words])]
    together = lm.generate(prompts, max_tokens=6, temperature=0.0)
    assert [one.ids for one in together] == [lm.generate(p, max_tokens=6, temperature=0.0).ids for p in prompts]


@pytest.mark.parametrize("name", ["gemma", "mllama"])
def test_places_without_their_pictures_are_refused(name: str, request: pytest.FixtureRequest) -> None:
    lm = request.getfixturevalue(name)[2]
    prompt = lm.encode_prompt(chat({"type": "image", "image": picture(1)}))
    with pytest.raises(VitralError, match="and 0 images"):
        lm.generate(list(prompt), max_tokens=2)


def test_everything_that_runs_can_be_watched(gemma: tuple[Any, Any, Any]) -> None:
    _, _, lm = gemma
    prompt = lm.encode_prompt(chat({"type": "image", "image": picture(1)}))
    with vitral.record(lm.model, "*") as seen:
        lm.logits(list(prompt), pixel_values=[picture(1)])
    assert seen["vision.tower"].shape == (1, 16, 16)
    assert seen["vision"].shape == (1, PLACES, 16)
