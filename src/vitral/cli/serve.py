"""`vitral serve [MODEL]`: the API and the page, on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from vitral.cli import common
from vitral.cli.common import Device, Dtype, Model
from vitral.errors import VitralError
from vitral.weights.catalogue import DEFAULT

if TYPE_CHECKING:
    from vitral.lm import LanguageModel

EXAMPLES = (
    "vitral serve",
    "vitral serve ./my-model --port 9000 --served-model-name mine",
    "VITRAL_API_KEY=secret vitral serve smollm2-135m-instruct --host 0.0.0.0",
)
QUESTION = "What is the capital of France?"
Host = Annotated[str, typer.Option(envvar="VITRAL_HOST", help="Address to bind; beyond this machine it needs a key.")]
Port = Annotated[int, typer.Option(envvar="VITRAL_PORT", help="0 takes a free one.", min=0, max=65535)]
ApiKey = Annotated[
    list[str] | None,
    typer.Option(envvar="VITRAL_API_KEY", help="Clients must send it as a Bearer token; several may be given."),
]
Name = Annotated[str | None, typer.Option("--served-model-name", help="The name clients use for the model.")]
SelfCheck = Annotated[bool, typer.Option("--self-check", help="Ask the model one question before serving.")]


def verb(
    model: Model = DEFAULT,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKey = None,
    served_model_name: Name = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    self_check: SelfCheck = False,
) -> None:
    """Serve a model: an OpenAI-compatible API under /v1, and a page to chat with it at /."""
    from vitral.serve.app import check_kind
    from vitral.serve.guard import check_bind, clean_keys

    # What can be checked without the model is checked before it is loaded.
    keys = clean_keys(api_key)
    check_bind(host, keys)
    if served_model_name is not None and not served_model_name.strip():
        raise VitralError("--served-model-name is empty", "Give a name, or leave it out", param="served_model_name")
    lm = common.load(model, device=device, dtype=dtype)
    lm.name = served_model_name or lm.name
    check_kind(lm)
    if self_check:
        check(lm)
    from vitral.serve.run import serve

    serve(lm, host=host, port=port, api_key=keys or None, ready=lambda url: announce(lm, url))


def announce(lm: LanguageModel, url: str) -> None:
    print(f"\n{lm.name} is served\n  page  {url}\n  API   {url}/v1\nCtrl-C stops it.", flush=True)


def check(lm: LanguageModel) -> None:
    """One real answer (or, for an encoder, one real comparison), printed; a model that cannot give it is not served."""
    start = time.perf_counter()
    print(f"self-check of {lm.name}", flush=True)
    if lm.kind == "encoder":
        france, paris, bread = lm.embed([QUESTION, "Paris is the French capital.", "Bake the bread until it is brown."])
        print(f"  near  {france @ paris:.3f}   far  {france @ bread:.3f}")
        good = france @ paris > france @ bread
    else:
        prompt = common.conversation(lm, QUESTION, None) if lm.chat else "Question: " + QUESTION + "\nAnswer:"
        answer = lm.generate(prompt, max_tokens=32, temperature=0.0).text.strip()
        print(f"  {QUESTION}\n  {answer}")
        good = bool(answer)
    if not good:
        raise VitralError("the self-check failed", "The weights or the tokenizer are not what the config says")
    print(f"  ok, {time.perf_counter() - start:.1f} s", flush=True)
