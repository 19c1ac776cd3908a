"""Clients of a toy model: one in this process for the shapes of answers, the official one over a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from fastapi.testclient import TestClient

from tests.serve.server import running
from tests.serve.toy import ToyLM
from vitral.serve import build_app


@pytest.fixture
def toy() -> ToyLM:
    return ToyLM()


@pytest.fixture
def http(toy: ToyLM) -> Iterator[TestClient]:
    with TestClient(build_app(toy), base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with (
        running(ToyLM()) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client
