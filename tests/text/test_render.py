"""The template worker: bombs and escapes end in an error within seconds, and nothing else is hurt."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from vitral.errors import VitralError
from vitral.text import worker
from vitral.text.render import Renderer

CONTEXT: dict[str, Any] = {"x": "text", "messages": [{"role": "user", "content": "hi"}], "n": 3}


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    renderer = Renderer()
    assert renderer.render("up", {}) == "up"
    yield renderer
    renderer.close()


BOMBS = [
    "{{ 'a' * 500000000 }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a'|center(10**9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "{% set ns = namespace(t='a') %}{% for i in range(99) %}{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t }}",
    "{{ range(10**9)|list }}",
    "{{ 9 ** (9 ** (9 ** 2)) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
]


@pytest.mark.parametrize("source", BOMBS, ids=range(len(BOMBS)))
def test_bombs_end_in_an_error_and_the_next_render_works(renderer: Renderer, source: str) -> None:
    began = time.perf_counter()
    with pytest.raises(VitralError) as caught:
        renderer.render(source, CONTEXT)
    assert time.perf_counter() - began < 4  # 2 s by the clock, and the time to notice on a busy machine
    assert "\n" not in str(caught.value)
    assert renderer.render("{{ x }}", CONTEXT) == "text"


ESCAPES = [
    "{{ x.__class__ }}",
    "{{ x.__class__.__mro__[1].__subclasses__() }}",
    "{{ x['__class__'] }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ joiner.__init__ }}",
    "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['os'] }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ '{0.__class__.__mro__}'.format(x) }}",
    "{% set f = '{0.__class__}'.format %}{{ f(x) }}",
    "{{ ['{0.__class__}'.format]|first|string }}{{ ('{0.__class__}'.format)(x) }}",
    "{{ '{0.a.__class__}'.format_map({'0': x}) }}",
    "{{ x|attr('__class__') }}",
    "{{ x|attr('__cla' ~ 'ss__') }}",
    "{{ [x]|map(attribute='__class__')|list }}",
    "{{ [x]|map('attr', '__class__')|list }}",
    "{{ [x]|selectattr('__class__')|list }}",
    "{{ messages|groupby('__class__') }}",
    "{{ dict.__base__ }}",
    "{{ range.__class__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'base' %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_escapes_are_refused(renderer: Renderer, source: str, tmp_path: Any) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(VitralError, match="chat_template failed"):
        renderer.render(source.replace("CANARY", str(canary)), CONTEXT)
    assert not canary.exists()


def test_the_worker_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.isdir("/proc"):
        pytest.skip("reads /proc")
    monkeypatch.setenv("SOME_API_KEY", "s3cret")
    renderer = Renderer()
    renderer.render("", {})
    assert renderer._process is not None
    with open(f"/proc/{renderer._process.pid}/environ", "rb") as file:
        assert b"s3cret" not in file.read()
    renderer.close()


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ x }}{% generation %}[{{ x }}]{% endgeneration %}", "text[text]"),
        ("{{ {'é': [1, none, true], 'a': '<'} | tojson }}", '{"é": [1, null, true], "a": "<"}'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=2, sort_keys=true) }}", '{\n  "a": 2,\n  "b": 1\n}'),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        (
            "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}"
            "{{ i }}{% endfor %}",
            "013",
        ),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{% set ns = namespace(n=1) %}{% for i in range(3) %}{% set ns.n = ns.n * 2 %}{% endfor %}{{ ns.n }}", "8"),
        ("{{ missing }}{{ missing is defined }}", "False"),
        ("{%- if x is string -%}yes{%- endif -%}", "yes"),
    ],
)
def test_what_templates_may_use(renderer: Renderer, source: str, text: str) -> None:
    assert renderer.render(source, CONTEXT) == text


def test_a_template_can_refuse(renderer: Renderer) -> None:
    with pytest.raises(VitralError, match="roles must alternate"):
        renderer.render("{{ raise_exception('roles must\n alternate') }}", CONTEXT)


@pytest.mark.parametrize(
    "source", ["{% for %}", "{{ x", "{% endif %}", "{{ x | nothing }}", "{{ missing.field }}", "{{ 1 / 0 }}"]
)
def test_broken_templates_are_reported(renderer: Renderer, source: str) -> None:
    with pytest.raises(VitralError, match="chat_template failed"):
        renderer.render(source, CONTEXT)


@pytest.mark.parametrize("context", [{"x": "\ud800"}, {"x": object()}, {"x": {"y": {1, 2}}}])
def test_what_is_no_json_is_refused(renderer: Renderer, context: dict[str, Any]) -> None:
    with pytest.raises(VitralError, match="messages"):
        renderer.render("{{ x }}", context)


def test_deep_nesting_is_refused(renderer: Renderer) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(VitralError, match="messages"):
        renderer.render("{{ x }}", {"x": deep})


def test_text_comes_back_as_it_went(renderer: Renderer) -> None:
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000), 0x1F642, 0x10FFFF])).replace("\r", "")
    assert renderer.render("{{ x }}", {"x": text}) == text


def test_a_warm_render_takes_milliseconds(renderer: Renderer) -> None:
    source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    times = []
    for _ in range(50):
        began = time.perf_counter()
        renderer.render(source, CONTEXT)
        times.append(time.perf_counter() - began)
    assert sorted(times)[len(times) // 2] < 0.01


def test_threads_share_the_worker_through_a_bomb(renderer: Renderer) -> None:
    results: list[str] = []

    def work(number: int) -> None:
        for _ in range(10):
            results.append(renderer.render("{{ n }}" * 3, {"n": number}))

    def bomb() -> None:
        with pytest.raises(VitralError):
            renderer.render(BOMBS[0], {})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)] + [threading.Thread(target=bomb)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(str(number) * 3 for number in range(6) for _ in range(10))


def test_a_dead_worker_is_replaced(renderer: Renderer) -> None:
    assert renderer._process is not None
    renderer._process.kill()
    renderer._process.wait()
    assert renderer.render("{{ x }}", CONTEXT) == "text"


def test_an_interrupt_leaves_no_stale_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer()
    renderer.render("", {})

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vitral.text.render.json.loads", interrupt)
        with pytest.raises(KeyboardInterrupt):
            renderer.render("stale", {})
    assert renderer.render("fresh", {}) == "fresh"
    renderer.close()


def test_no_worker_outlives_its_process() -> None:
    code = "from vitral.text import render; render.render('', {}); print(render._RENDERER._process.pid)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    pid = int(done.stdout)
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the worker still runs")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_starts_its_own_worker() -> None:
    code = (
        "import os; from vitral.text.render import render, _RENDERER\n"
        "render('', {}); parent = _RENDERER._process.pid\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    ok = render('{{ 1 + 1 }}', {}) == '2' and _RENDERER._process.pid != parent\n"
        "    _RENDERER.close(); os._exit(0 if ok else 1)\n"
        "assert os.waitpid(pid, 0)[1] == 0 and render('x', {}) == 'x'"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_nothing_heavy_is_imported_until_a_template_renders() -> None:
    code = (
        "import sys, vitral.text.chat; assert not {'jinja2', 'torch', 'numpy'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_the_worker_s_own_functions() -> None:
    assert worker.answer({"source": "{{ a }}", "context": {"a": 1}}) == {"text": "1"}
    assert worker.answer({"source": "{{ a.b.c }}", "context": {}}).keys() == {"error"}
    assert len(worker.answer({"source": "{{ raise_exception('x' * 9999) }}", "context": {}})["error"]) <= 500
