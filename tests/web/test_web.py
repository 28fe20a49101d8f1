"""The live page in a real browser, and the metrics in a real scrape."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage
from axe_playwright_python.sync_playwright import Axe
from conftest import COMMAND, NOBODY, ROOT, SHARED, Run, run_as
from playwright.sync_api import Browser, Page, sync_playwright
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from support.processes import free_port
from support.streams import MjpegServer
from support.waiting import wait_until

from node.capture.sources.image_files import read_image
from perception_client.subscriber import Control, Status, Subscriber

WAIT_S = 20.0
LOADED_S = 90.0


class Robot:
    """A camera's server and a node with a page, each to be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self._picture = read_image(Path(skimage.__file__).parent / "data" / "coffee.png")
        self.labels = f"ipc://{folder}/labels"
        self.control = f"ipc://{folder}/control"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._camera_port = free_port()
        self.start_camera()
        self.start_node()

    def start_camera(self) -> None:
        self.camera = MjpegServer(self._picture, self._camera_port)

    def start_node(self) -> None:
        self.node = subprocess.Popen(
            [*COMMAND, "run", "--source", self.camera.url, "--endpoint", self.labels,
             "--set", "camera.0.name=front", "--set", "camera.0.at_start=wait",
             "--set", f'monitor.web="127.0.0.1:{self.port}"', "--set", "monitor.allow_control=true",
             "--set", f"recording.folder={self._folder}/rec",
             "--set", f"control.endpoint={self.control}", "--set", f"control.models={SHARED}",
             "--set", "smooth.time_constant_s=0.1"],
            cwd=ROOT,
        )  # fmt: skip

    def wait_for_labels(self) -> None:
        with Subscriber(self.labels, timeout_s=WAIT_S) as subscriber:
            while subscriber.receive(WAIT_S)[0].status is not Status.OK:
                pass

    def stop_node(self) -> None:
        self.node.terminate()
        assert self.node.wait(10) == 0


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    robot = Robot(tmp_path_factory.mktemp("robot"))
    robot.wait_for_labels()
    yield robot
    robot.stop_node()
    robot.camera.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield started
        started.close()


def wait_for(page: Page, condition: str, within_s: float = WAIT_S) -> None:
    """Until JavaScript says so; the page's policy forbids playwright's own `wait_for_function`."""
    wait_until(lambda: bool(page.evaluate(condition)), within_s)


@pytest.fixture
def page(browser: Browser, robot: Robot) -> Iterator[Page]:
    opened = browser.new_page()
    troubles: list[str] = []
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.goto(robot.url)
    wait_for(opened, "document.querySelector('.status')?.textContent === 'seeing'")
    wait_for(opened, "document.querySelector('canvas')?.dataset.frame !== undefined")
    yield opened
    opened.close()
    assert not troubles


def test_the_picture_moves_with_its_labels(page: Page) -> None:
    pixels = "document.querySelector('canvas').toDataURL()"
    frame, before = (
        page.evaluate("document.querySelector('canvas').dataset.frame"),
        page.evaluate(pixels),
    )
    wait_for(page, f"document.querySelector('canvas').dataset.frame > {frame}")
    wait_until(lambda: page.evaluate(pixels) != before)
    assert page.inner_text(".seen li:first-child .name") == "espresso"
    assert float(page.inner_text(".seen li:first-child .score")) > 0.5
    assert page.inner_text(".age").endswith(" ms")
    assert page.inner_text("#model").startswith("efficientnet_lite0, ")
    wait_for(page, "document.getElementById('p99').textContent.endsWith('ms')")
    wait_for(page, "document.querySelectorAll('#events li').length > 0")
    assert "espresso appeared" in page.inner_text("#events")
    # A busy computer passes pictures over, and says `degraded` for a while.
    wait_for(page, "['running', 'degraded'].includes(document.getElementById('state').textContent)")


def test_everybody_can_use_it(page: Page) -> None:
    """axe-core's checks in both colour schemes and on a phone, and the keyboard alone."""
    for scheme, width in (("light", 1280), ("dark", 390)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 844})
        results = Axe().run(page)
        assert results.violations_count == 0, [
            violation["id"] for violation in results.response["violations"]
        ]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("Tab")
    for _ in range(12):
        if page.evaluate("document.activeElement.id") == "pause":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_for(page, "document.querySelector('.status').textContent === 'paused'")
    assert page.inner_text(".blind strong") == "Not looking: paused"
    assert page.inner_text("#pause") == "Resume"
    page.keyboard.press("Enter")
    wait_for(page, "document.querySelector('.status').textContent === 'seeing'")


def test_its_buttons_do_what_they_say(page: Page, robot: Robot) -> None:
    with page.expect_download() as download:
        page.click(".snapshot")
    assert download.value.suggested_filename == "front.jpg"
    assert Path(download.value.path()).read_bytes()[:2] == b"\xff\xd8"
    page.click("#record")
    page.wait_for_selector("#recorded:not([hidden])")
    page.click("#record")
    page.wait_for_selector("#recorded", state="hidden")
    assert len(list((robot._folder / "rec").glob("*.mcap"))) == 1


def test_the_threshold_follows_the_model_and_who_else_sets_it(
    page: Page, robot: Robot, shared_data: Path
) -> None:
    """A classifier has no threshold; a detector that takes its place has one."""
    shown = "document.getElementById('threshold')"
    assert page.locator("#threshold-label").is_hidden()
    detector = str(shared_data / "models" / "yolox_nano.onnx")
    use_model(robot, detector)
    wait_for(page, f"!{shown}.parentElement.hidden && {shown}.value === '0.25'")
    page.focus("#threshold")
    page.keyboard.press("ArrowRight")
    wait_until(lambda: detect_score(robot) == 0.3)
    post(robot.url, {"command": "set", "arguments": {"settings": {"detect.score": 0.6}}})
    wait_for(page, f"{shown}.value === '0.6'")
    use_model(robot, "efficientnet_lite0")
    wait_for(page, f"{shown}.parentElement.hidden")


def use_model(robot: Robot, name: str) -> None:
    with Control(robot.control) as control:
        control.model(name, timeout_s=LOADED_S)


def detect_score(robot: Robot) -> float:
    _, answer = post(robot.url, {"command": "status"})
    return float(json.loads(answer)["settings"]["detect"]["score"])


def test_a_lost_camera_shows_within_two_seconds_and_comes_back(page: Page, robot: Robot) -> None:
    robot.camera.close()
    lost = "['no camera', 'stalled'].includes(document.querySelector('.status').textContent)"
    wait_for(page, lost, 2.0)
    assert page.inner_text(".blind strong").startswith("Cannot see")
    assert page.locator(".seen li").count() == 0  # nothing that could be taken for seen
    robot.start_camera()
    wait_for(page, "document.querySelector('.status').textContent === 'seeing'")


def test_the_page_comes_back_with_the_node(page: Page, robot: Robot) -> None:
    robot.stop_node()
    wait_for(page, "document.getElementById('state').textContent === 'node not reached'")
    assert page.inner_text(".blind strong") == "Node not reached"
    robot.start_node()
    wait_for(page, "document.querySelector('.status').textContent === 'seeing'")
    wait_for(page, "['running', 'degraded'].includes(document.getElementById('state').textContent)")


def get(url: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(
        url, headers={key.replace("_", "-"): value for key, value in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def post(url: str, content: object, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(
        f"{url}/control", json.dumps(content).encode(),
        {"Content-Type": "application/json", **headers},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def scrape(robot: Robot) -> dict[str, Metric]:
    """The metrics by their names."""
    status, text = get(f"{robot.url}/metrics")
    assert status == 200
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def sees(families: dict[str, Metric]) -> bool:
    """Whether the metrics say that the camera's status is `ok`, and how old its newest frame is."""
    ages = families.get("perception_camera_newest_frame_age_seconds")
    return (
        ages is not None
        and bool(ages.samples)
        and any(
            sample.labels.get("status") == "ok" and sample.value == 1
            for sample in families["perception_camera_status"].samples
        )
    )


def scrape_once_it_sees(robot: Robot) -> dict[str, Metric]:
    """The metrics say what the newest health said, which may date from before the first frame."""
    deadline = time.monotonic() + WAIT_S
    while not sees(families := scrape(robot)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return families


def test_prometheus_scrapes_what_health_says(robot: Robot) -> None:
    families = scrape_once_it_sees(robot)
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    with Subscriber(robot.labels) as subscriber:
        health = subscriber.health(5.0)
    (camera,) = health.cameras
    frames = samples["perception_camera_frames_total", "front"]
    assert camera.frames - 90 < frames <= camera.frames
    assert samples["perception_camera_status", "front", "ok"] == 1
    assert samples["perception_camera_status", "front", "stalled"] == 0
    states = {state for state in ("running", "degraded") if samples["perception_node_state", state]}
    assert len(states) == 1  # a busy computer passes pictures over, and says `degraded`
    infer = samples["perception_stage_duration_seconds_count", "front", "infer"]
    assert infer > 0
    assert samples["perception_capture_to_publish_seconds_count", "front"] == infer
    latency = samples["perception_capture_to_publish_seconds_sum", "front"] / infer
    assert 0.001 < latency < 1.0
    assert samples["process_resident_memory_bytes",] > 50e6
    assert families["perception_camera_reconnects"].type == "counter"


def test_the_dashboard_draws_what_is_scraped(robot: Robot) -> None:
    """Every metric that it asks for is there under that name, with the labels that it asks by."""
    dashboard = json.loads((ROOT / "config" / "grafana-dashboard.json").read_text())
    families = scrape_once_it_sees(robot)
    labels: dict[str, set[str]] = {}
    for sample in (sample for family in families.values() for sample in family.samples):
        labels.setdefault(sample.name, set()).update(sample.labels)
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [variable["query"]["query"] for variable in dashboard["templating"]["list"][1:]]
    assert len(expressions) > 15
    for expression in expressions:
        named = re.findall(r"\b((?:perception|process)_\w+)\b(?:\{([^}]*)\})?", expression)
        assert named, expression
        for name, selector in named:
            assert name in labels, name
            asked_by = set(re.findall(r"(\w+)=~", selector)) - {"job", "instance"}
            assert asked_by <= labels[name], (name, asked_by)


def test_requests_that_are_wrong_get_an_answer(robot: Robot) -> None:
    assert post(robot.url, ["pause"])[0] == 400
    assert post(robot.url, {"command": "pause", "arguments": 3})[0] == 400
    assert post(robot.url, {"command": "snapshot", "arguments": {"camera": "none"}})[0] == 409
    too_low = {"settings": {"detect.score": 0}}
    assert post(robot.url, {"command": "set", "arguments": too_low})[0] == 409
    assert get(f"{robot.url}/nothing")[0] == 404
    assert get(f"{robot.url}/..%2f..%2fweb.py")[0] == 404
    # A page of somebody else in the operator's browser, and a name that was made to lead here.
    assert post(robot.url, {"command": "pause"}, Origin="http://evil.example")[0] == 403
    assert get(robot.url, Host="evil.example")[0] == 403
    assert get(robot.url, Host=f"localhost:{robot.port}")[0] == 200


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("fly", {}),
        ("model", {"name": "resnet18"}),
        ("model", {"name": "/etc/model.onnx"}),
        ("pause", {"camera": "front"}),
        ("snapshot", {}),
        ("snapshot", {"camera": ["front"]}),
        ("snapshot", {"camera": "front", "quality": 100}),
        ("record", {"action": "dump"}),
        ("record", {"action": ["start"]}),
        ("set", {"settings": {"model.top_k": 1}}),
        ("set", {"settings": {"detect.score": 0.5, "detect.iou": 1.0}}),
        ("set", {"settings": {"detect.score": True}}),
        ("set", {"settings": {"detect.score": [0.5]}}),
        ("set", {"settings": [["detect.score", 0.5]]}),
        ("status", {"x": 1}),
        (["pause"], {}),
    ],
)
def test_the_page_takes_what_its_buttons_send_and_nothing_else(
    robot: Robot, command: object, arguments: object
) -> None:
    status, answer = post(robot.url, {"command": command, "arguments": arguments})
    assert status == 403
    assert b"the page takes status, pause" in answer


def test_another_user_of_this_computer_presses_no_button(robot: Robot) -> None:
    ask = (
        f"c = http.client.HTTPConnection('127.0.0.1', {robot.port})\n"
        "c.request('POST', '/control', '{\"command\": \"status\"}', "
        "{'Content-Type': 'application/json'}); a = c.getresponse(); print(a.status, a.read())"
    )
    assert run_as(None, "import encodings.idna, http.client", ask).startswith("200 ")
    assert "own user may change something" in run_as(
        NOBODY, "import encodings.idna, http.client", ask
    )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page that asks for a token, and may change nothing."""
    folder, port = tmp_path_factory.mktemp("guarded"), free_port()
    token = folder / "token"
    token.touch(0o600)
    token.write_text("0123456789abcdef0123\n")
    node = subprocess.Popen(
        [*COMMAND, "run", "--source", "demo", "--endpoint", f"ipc://{folder}/labels",
         "--set", f'monitor.web="127.0.0.1:{port}"', "--set", f"monitor.token_file={token}"],
        cwd=ROOT,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return get(url)[0] == 401
        except OSError:
            return False

    wait_until(answers)
    yield url
    node.terminate()
    assert node.wait(10) == 0


def test_without_its_token_the_page_gives_nothing(guarded: str, browser: Browser) -> None:
    for path in ("/", "/page.js", "/live", "/metrics"):
        assert get(f"{guarded}{path}")[0] == 401
        assert get(f"{guarded}{path}", Authorization="Bearer wrong")[0] == 401
    assert get(f"{guarded}/metrics", Authorization="Bearer 0123456789abcdef0123")[0] == 200
    opened = browser.new_page()
    opened.goto(f"{guarded}/?token=0123456789abcdef0123")
    assert opened.url == f"{guarded}/"  # the token is in a cookie, and not in the address
    opened.wait_for_selector(".camera")
    wait_for(opened, "document.querySelector('.status').textContent === 'seeing'")
    assert opened.is_hidden("#controls")
    opened.close()
    allowed = {"Authorization": "Bearer 0123456789abcdef0123"}
    assert post(guarded, {"command": "pause"}, **allowed)[0] == 403


@pytest.mark.parametrize(
    ("settings", "code", "reason"),
    [
        (['monitor.web="0.0.0.0:8080"'], 2, "give monitor.token_file, or write monitor.insecure"),
        (['monitor.web="8080"'], 2, "is not HOST:PORT; write 127.0.0.1:8080"),
        (['monitor.web="127.0.0.1:{taken}"'], 2, "cannot be bound"),
        (['monitor.web="127.0.0.1:0"', "monitor.token_file=/no/such"], 2, "openssl rand -hex 32"),
    ],
)
def test_a_page_that_cannot_be_is_said(
    in_process: Run, ipc: str, settings: list[str], code: int, reason: str
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        options = [part for setting in settings for part in ("--set", setting.format(taken=port))]
        done = in_process("run", "--source", "demo", "--endpoint", ipc, *options)
    assert done.returncode == code, done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
