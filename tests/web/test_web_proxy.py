"""The live page behind a reverse proxy, under a path and by another name, in a real browser."""

import asyncio
import http.client
import shutil
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from playwright.sync_api import sync_playwright
from support.processes import free_port
from support.waiting import wait_until

from node.web.live_state import LiveState
from node.web.metrics import Metrics
from node.web.preview import Preview
from node.web.server import WebServer

PATH = "/robots/seven"
TOKEN = "a-token-of-this-test-only"


class Proxy:
    """Serves a page under PATH as nginx does by default: the page gets its own address as the host,
    and the browser's origin. asked_outside: paths that the page asked for outside of PATH."""

    def __init__(self, page_port: int) -> None:
        self._page = f"http://127.0.0.1:{page_port}"
        self.port = free_port()
        self.asked_outside: list[str] = []
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        application = web.Application()
        application.router.add_route("*", PATH + "/{rest:.*}", self._inside)
        application.router.add_route("*", "/{rest:.*}", self._outside)
        runner = web.AppRunner(application)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", self.port).start())
        self._loop.run_forever()

    async def _outside(self, request: web.Request) -> web.Response:
        self.asked_outside.append(request.path)
        return web.Response(status=404)

    async def _inside(self, request: web.Request) -> web.StreamResponse:
        url = f"{self._page}/{request.match_info['rest']}"
        headers = {
            name: request.headers[name]
            for name in ("Origin", "Cookie", "Content-Type")
            if name in request.headers
        }
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            if request.headers.get("Upgrade", "").lower() == "websocket":
                async with session.ws_connect(url, headers=headers) as page:
                    return await self._joined(request, page)
            async with session.request(
                request.method, url, params=request.query, data=await request.read(),
                headers=headers, allow_redirects=False,
            ) as answer:  # fmt: skip
                kept = ("Content-Type", "Location", "Set-Cookie", "Content-Security-Policy")
                return web.Response(
                    status=answer.status,
                    body=await answer.read(),
                    headers={name: answer.headers[name] for name in kept if name in answer.headers},
                )

    async def _joined(
        self, request: web.Request, page: aiohttp.ClientWebSocketResponse
    ) -> web.WebSocketResponse:
        viewer = web.WebSocketResponse()
        await viewer.prepare(request)

        async def down() -> None:
            async for message in page:
                await viewer.send_str(message.data)

        task = asyncio.create_task(down())
        async for message in viewer:
            await page.send_str(message.data)
        task.cancel()
        return viewer


COMMANDS: list[str] = []


def command(name: str, arguments: Mapping[str, Any], asker: str) -> "Future[Mapping[str, Any]]":
    COMMANDS.append(name)
    answer: Future[Mapping[str, Any]] = Future()
    answer.set_result({"settings": {"detect": {"score": 0.5}}})
    return answer


def server(token: str | None, hosts: tuple[str, ...]) -> WebServer:
    live = LiveState(["front"])
    never: Future[Any] = Future()
    return WebServer(
        "127.0.0.1:0", live, Metrics(live), Preview(lambda camera: never, 10, 64),
        token=token, command=command, hosts=hosts,
    )  # fmt: skip


@pytest.fixture(params=[None, TOKEN], ids=["open", "token"])
def page_and_proxy(request: pytest.FixtureRequest) -> Iterator[tuple[WebServer, Proxy]]:
    page = server(request.param, ("Robot.local",))
    proxy = Proxy(page.port)
    yield page, proxy
    proxy.close()
    page.close()


def test_the_page_works_under_a_path_and_by_a_listed_name(
    page_and_proxy: tuple[WebServer, Proxy], request: pytest.FixtureRequest
) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    _, proxy = page_and_proxy
    query = f"?token={TOKEN}" if "token" in request.node.callspec.id else ""
    COMMANDS.clear()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--host-resolver-rules=MAP robot.local 127.0.0.1",
            ],
        )
        opened = browser.new_page()
        opened.goto(f"http://robot.local:{proxy.port}{PATH}/{query}")
        assert opened.url == f"http://robot.local:{proxy.port}{PATH}/"
        wait_until(lambda: opened.inner_text(".camera h2") == "front", 20)
        assert opened.inner_text("#state") == "starting"
        opened.click("#pause")
        wait_until(lambda: "pause" in COMMANDS)
        paths = [cookie["path"] for cookie in opened.context.cookies()]
        assert paths == ([PATH] if query else [])
        browser.close()
    assert proxy.asked_outside == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "robot.local"}, 200),
        ({"Host": "ROBOT.local:80"}, 200),
        ({"Host": "other.local"}, 403),
        ({"Host": "robot.local.example"}, 403),
        ({"Host": "localhost", "Origin": "http://robot.local"}, 200),
        ({"Host": "localhost", "Origin": "https://robot.local:8443"}, 200),
        ({"Host": "localhost", "Origin": "http://other.local"}, 403),
        ({"Host": "localhost", "Origin": "http://robot.local.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
    ],
)
def test_only_listed_names_are_the_nodes(headers: dict[str, str], status: int) -> None:
    page = server(None, ("robot.local",))
    try:
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        assert answer.status == status
        if status == 403:
            assert b"list the name in monitor.hosts" in answer.read()
    finally:
        page.close()
