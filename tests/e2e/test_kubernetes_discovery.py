"""Real processes that find each other through Kubernetes, as far as an API server and a kubelet are needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from k8s_validator.overlays import rendered
from kube_api import NAMESPACE, KubeApi
from openai_client import Client, eventually
from shepherd_cli.stack import Service, Stack
from shepherd_tiny_chat import MODEL_DIR

pytestmark = pytest.mark.e2e

POD = "worker-0"


@asynccontextmanager
async def probed(api: KubeApi, stack: Stack, worker: Service) -> AsyncIterator[None]:
    """A kubelet's readiness probe: what `/health` says becomes the EndpointSlice."""

    async def probe() -> None:
        while True:
            ready = await stack.answers(worker.url + "/health")
            api.set_ready(POD, ready=ready)
            await asyncio.sleep(0.2)

    probing = asyncio.create_task(probe())
    try:
        yield
    finally:
        probing.cancel()
        await asyncio.wait((probing,))


def refused_by_the_role(api: KubeApi) -> set[tuple[str, str]]:
    """What was asked of the API server and the manifests' Role does not allow."""
    (role,) = [each for each in rendered("aggregated") if each["kind"] == "Role"]
    allowed = {(v, r) for rule in role["rules"] for r in rule["resources"] for v in rule["verbs"]}
    return api.asked - allowed


async def test_a_frontend_and_the_memory_find_a_worker_whose_pod_became_ready(
    tmp_path: Path,
) -> None:
    async with KubeApi().serving() as api, Stack(tmp_path, namespace="dynamo") as stack:
        kubeconfig = tmp_path / "kubeconfig"
        api.write_kubeconfig(kubeconfig)
        stack.env |= {
            "KUBECONFIG": str(kubeconfig),
            "DYN_DISCOVERY_BACKEND": "kubernetes",
            "POD_NAMESPACE": NAMESPACE,
            "POD_NAME": "observer-0",
            "POD_UID": "observer",
        }
        worker = await stack.worker(
            "worker",
            *("--engine", "fake", "--model", str(MODEL_DIR), "--served-model-name", "tiny"),
            wait=False,
            env={"POD_NAME": POD, "POD_UID": "worker"},
        )
        async with probed(api, stack, worker):
            frontend, memory = await asyncio.gather(stack.frontend(), stack.memory())
            await stack.ready(worker)
            await stack.model_served(frontend, "tiny")
            client = Client(stack, frontend, "tiny")
            answer = await client.chat([{"role": "user", "content": "hello"}], session="s-1")

            async def followed() -> bool:
                if not await stack.answers(memory.url + "/health"):
                    return False
                return bool((await stack.get_json(memory.url + "/health"))["streams"])

            await eventually(followed)
            exit_code = await worker.process.stop(20)

        assert answer["choices"][0]["message"]["role"] == "assistant"
        assert exit_code == 0
        assert ("patch", "dynamoworkermetadatas") in api.asked
        assert refused_by_the_role(api) == set()
