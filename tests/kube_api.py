"""The part of a Kubernetes API server that Dynamo's discovery talks to, and a kubelet's readiness.

Keeps EndpointSlices and DynamoWorkerMetadata of one namespace in memory, serves list and
watch, takes server-side apply, and remembers every request as (verb, resource), so that
a Role can be compared with what is really asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

Object = dict[str, Any]

NAMESPACE = "shepherd"
_APIS = {
    "endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
    "dynamoworkermetadatas": ("nvidia.com/v1alpha1", "DynamoWorkerMetadata"),
}


class KubeApi:
    """Objects by resource and name; event loop only."""

    def __init__(self) -> None:
        self.asked: set[tuple[str, str]] = set()
        self.objects: dict[str, dict[str, Object]] = {name: {} for name in _APIS}
        self.url = ""
        self._revision = 1
        self._watchers: dict[str, set[asyncio.Queue[Object]]] = {name: set() for name in _APIS}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[KubeApi]:
        """Listen on a free port of this machine."""
        app = web.Application()
        for resource, (api, _) in _APIS.items():
            path = f"/apis/{api}/namespaces/{NAMESPACE}/{resource}"
            app.router.add_get(path, self._read)
            app.router.add_patch(path + "/{name}", self._apply)
            app.router.add_delete(path + "/{name}", self._delete)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def write_kubeconfig(self, path: Path) -> None:
        """What a client needs to find this server."""
        named = {"name": "here"}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "clusters": [named | {"cluster": {"server": self.url}}],
                    "contexts": [
                        named
                        | {"context": {"cluster": "here", "user": "here", "namespace": NAMESPACE}}
                    ],
                    "users": [named | {"user": {}}],
                }
            )
        )

    def set_ready(self, pod: str, *, ready: bool) -> None:
        """What the endpoint controller does when a kubelet's readiness probe changes its mind."""
        endpoint = {
            "addresses": ["127.0.0.1"],
            "conditions": {"ready": ready},
            "targetRef": {"kind": "Pod", "name": pod, "namespace": NAMESPACE},
        }
        slice_ = {
            "metadata": {
                "name": f"workers-{pod}",
                "namespace": NAMESPACE,
                "labels": {
                    "nvidia.com/dynamo-discovery-backend": "kubernetes",
                    "nvidia.com/dynamo-discovery-enabled": "true",
                },
            },
            "addressType": "IPv4",
            "endpoints": [endpoint],
            "ports": [],
        }
        self._store("endpointslices", slice_)

    def _store(self, resource: str, each: Object) -> Object:
        name, known = each["metadata"]["name"], self.objects[resource]
        event = "MODIFIED" if name in known else "ADDED"
        generation = known.get(name, {}).get("metadata", {}).get("generation", 0) + 1
        api, kind = _APIS[resource]
        self._revision += 1
        known[name] = each | {"apiVersion": api, "kind": kind}
        known[name]["metadata"] |= {
            "namespace": NAMESPACE,
            "uid": f"uid-{name}",
            "generation": generation,
            "resourceVersion": str(self._revision),
        }
        self._tell(resource, event, known[name])
        return known[name]

    def _tell(self, resource: str, event: str, each: Object) -> None:
        for queue in self._watchers[resource]:
            queue.put_nowait({"type": event, "object": each})

    async def _read(self, request: web.Request) -> web.StreamResponse:
        resource = request.path.rpartition("/")[2]
        if request.query.get("watch") in {"1", "true"}:
            return await self._watch(request, resource)
        self.asked.add(("list", resource))
        api, kind = _APIS[resource]
        return web.json_response(
            {
                "apiVersion": api,
                "kind": f"{kind}List",
                "metadata": {"resourceVersion": str(self._revision)},
                "items": list(self.objects[resource].values()),
            }
        )

    async def _watch(self, request: web.Request, resource: str) -> web.StreamResponse:
        self.asked.add(("watch", resource))
        response = web.StreamResponse(headers={"content-type": "application/json"})
        queue: asyncio.Queue[Object] = asyncio.Queue()
        self._watchers[resource].add(queue)
        since = int(request.query.get("resourceVersion") or 0)
        for each in self.objects[resource].values():
            if int(each["metadata"]["resourceVersion"]) > since:
                queue.put_nowait({"type": "ADDED", "object": each})
        await response.prepare(request)
        try:
            while True:
                await response.write(json.dumps(await queue.get()).encode() + b"\n")
        except ConnectionError:
            return response
        finally:
            self._watchers[resource].discard(queue)

    async def _apply(self, request: web.Request) -> web.Response:
        *_, resource, name = request.path.split("/")
        if name not in self.objects[resource]:
            self.asked.add(("create", resource))  # what an API server asks of an apply
        self.asked.add(("patch", resource))
        return web.json_response(self._store(resource, json.loads(await request.read())))

    async def _delete(self, request: web.Request) -> web.Response:
        *_, resource, name = request.path.split("/")
        self.asked.add(("delete", resource))
        if (gone := self.objects[resource].pop(name, None)) is None:
            return web.json_response({"kind": "Status", "code": 404}, status=404)
        self._tell(resource, "DELETED", gone)
        return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"})
