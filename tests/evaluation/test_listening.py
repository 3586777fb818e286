"""The listening page: what is in the file, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from scipy import signal

from codec.io.wav import to_int16
from evaluation.listening.mushra import summarise
from evaluation.listening.page import (
    ListeningClip,
    Sound,
    _anchor_filter,
    low_pass_anchor,
    write_page,
)
from evaluation.listening.ratings import COLUMNS, read_ratings

RATE = 16000
SECONDS = 2.0
TITLE = 'Clips </script> <b>"& ü'
NAMES = ("one/<img src=x onerror=alert(1)>.flac", "zwei ü \"'&.flac")
# Every sound is a tone of its own, so that one can tell which of them is heard. "twin" is the
# reference once more: switching between the two must not be heard at all.
TONES = {"nsvq": 1000.0, "opus": 2000.0, "g722": 3000.0}
REFERENCE_HZ = 500.0


def tone(hertz: float, seconds: float = SECONDS) -> np.ndarray:
    # Whole periods, so that the loop is without a step.
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype("f4")


def make_clips() -> list[ListeningClip]:
    clips = []
    for k, name in enumerate(NAMES):
        shift = 50.0 * k
        sounds = [
            Sound(
                "nsvq", rate, rate + 0.02, tone(TONES["nsvq"] + shift), {"pesq_wb": 2 + rate / 10}
            )
            for rate in (8.0, 16.0)
        ]
        for rate, measured in ((8.0, 8.4), (14.0, None)):
            scores = {"pesq_wb": None, "estoi": 0.9}
            sounds.append(Sound("opus", rate, measured, tone(TONES["opus"] + shift), scores))
        # Half a second longer, to be cut off.
        sounds.append(Sound("g722", 64.0, 64.0, tone(TONES["g722"] + shift, SECONDS + 0.5)))
        sounds.append(Sound("twin", 8.0, 8.0, tone(REFERENCE_HZ + shift)))
        clips.append(ListeningClip(name, tone(REFERENCE_HZ + shift), sounds))
    return clips


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "listen.html"
    write_page(path, make_clips(), TITLE)
    return path


def embedded(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the data and the audio that are in a page."""
    text = path.read_text(encoding="utf-8")
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    coded = re.findall(r'<script type="text/plain" id="audio-\d+">(.*?)</script>', text)
    audio = []
    for flac in coded:
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(flac)), dtype="int16")
        assert rate == RATE
        audio.append(samples)
    return json.loads(data), audio


# ---------------------------------------------------------------------------- without a browser


def test_anchor_is_within_the_recommendation() -> None:
    hertz, response = signal.freqz(_anchor_filter(), worN=8192, fs=RATE)
    level = 20 * np.log10(np.abs(response) + 1e-12)
    assert np.abs(level[hertz <= 3500]).max() < 0.1
    assert level[hertz >= 4000].max() < -25 and level[hertz >= 4500].max() < -50
    wave = np.concatenate([np.zeros(100), tone(1000.0), np.zeros(100)])
    assert np.abs(low_pass_anchor(wave) - wave)[400:-400].max() < 1e-3  # no delay
    assert low_pass_anchor(np.float32([0.5])).shape == (1,)


def test_sounds_are_embedded_without_loss(page_file: Path) -> None:
    data, audio = embedded(page_file)
    clip = data["clips"][0]
    assert [c["name"] for c in data["clips"]] == list(NAMES) and data["title"] == TITLE
    assert {len(samples) for samples in audio} == {round(SECONDS * RATE)}
    assert np.array_equal(audio[clip["reference"]], to_int16(tone(REFERENCE_HZ)))
    assert np.array_equal(audio[clip["sounds"][0]["audio"]], to_int16(tone(TONES["nsvq"])))
    assert np.array_equal(audio[clip["sounds"][4]["audio"]], to_int16(tone(TONES["g722"])))
    assert clip["sounds"][0]["scores"] == [2.8, None]


def test_each_rate_has_ours_and_the_nearest_of_every_peer(page_file: Path) -> None:
    data, _ = embedded(page_file)
    assert data["rates"] == [8, 16]
    clip = data["clips"][0]
    shown = [
        [(s["codec"], s["bitrate"]) for s in (clip["sounds"][i] for i in indices)]
        for indices in clip["shown"]
    ]
    assert shown[0] == [("nsvq", 8), ("opus", 8), ("g722", 64), ("twin", 8)]
    assert shown[1] == [("nsvq", 16), ("opus", 14), ("g722", 64), ("twin", 8)]
    assert [c["name"] for c in data["codecs"]] == ["this codec", "Opus", "G.722", "twin"]


def test_a_rate_that_is_never_the_nearest_takes_no_room(tmp_path: Path) -> None:
    wave = tone(500, 0.1)
    sounds = [Sound("nsvq", 8, None, wave), Sound("opus", 8, 8, wave), Sound("opus", 48, 48, wave)]
    write_page(tmp_path / "p.html", [ListeningClip("a", wave, sounds)], "t")
    data, audio = embedded(tmp_path / "p.html")
    assert data["clips"][0]["sounds"][2]["audio"] is None and len(audio) == 4


def test_names_cannot_become_markup_and_nothing_is_left_to_fill(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert "<img" not in text and "<b>" not in text and "{{" not in text
    assert "<title>Clips &lt;/script&gt; &lt;b&gt;&quot;&amp; ü</title>" in text
    assert text.count("</script>") == len(re.findall(r"<script\b", text))
    assert not re.search(r"\b(src|href)=\"(?!data:)", text) and "http" not in text.replace(
        "http://www.w3.org/2000/svg", ""
    ).replace("http-equiv", "")


def test_the_same_clips_give_the_same_page(page_file: Path, tmp_path: Path) -> None:
    write_page(tmp_path / "again.html", make_clips(), TITLE)
    assert (tmp_path / "again.html").read_bytes() == page_file.read_bytes()


def test_scores_that_are_not_numbers_and_odd_names_do_not_break_the_page(tmp_path: Path) -> None:
    wave = tone(500, 0.1)
    scores = {"pesq_wb": float("nan"), "estoi": float("inf"), "psnr_db": 1.5}
    clip = ListeningClip("{{SCRIPT}} \udcff", wave, [Sound("x{{DATA}}", 5, None, wave, scores)])
    write_page(tmp_path / "p.html", [clip], "{{AUDIO}} \udcff")
    data, _ = embedded(tmp_path / "p.html")
    assert data["clips"][0]["sounds"][0]["scores"] == [1.5] and data["rates"] == [5]
    assert data["clips"][0]["name"] == "{{SCRIPT}} \udcff"


def _bad(**change: Any) -> list[ListeningClip]:
    wave = tone(500, 0.1)
    sound = {"codec": "opus", "bitrate_kbps": 8.0, "measured_kbps": 8.0, "wave": wave} | change
    return [ListeningClip("a", wave, [Sound(**sound)])]


@pytest.mark.parametrize(
    ("clips", "says"),
    [
        ([], "at least one clip"),
        (_bad() * 2, "two clips of one name"),
        (_bad(codec="anchor"), "cannot be called so"),
        (_bad(wave=np.float32([0, np.nan])), "a: opus at 8 kbit/s: .* NaN"),
        (_bad(wave=np.zeros((2, 3), np.float32)), "shape"),
        (_bad(wave=np.zeros(3, np.int16)), "floats"),
        (_bad(bitrate_kbps=float("nan")), "rate"),
        (_bad(measured_kbps=0.0), "rate must be above 0"),
        ([ListeningClip("a", np.zeros(0, np.float32), [])], "no samples"),
        ([ListeningClip("a", tone(500), _bad()[0].sounds * 2)], "there twice"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path: Path, clips: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        write_page(tmp_path / "p.html", clips, "t")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------- in a browser

# A worklet beside the output keeps what is played; it runs where the sound is made, so that a busy
# page loses nothing of it.
_TAP = """
const connect = AudioNode.prototype.connect;
const code = `registerProcessor("tap", class extends AudioWorkletProcessor {
  process([input]) {
    this.port.postMessage(input[0] ? input[0].slice() : new Float32Array(128));
    return true;
  }
});`;
window.heard = [];
AudioNode.prototype.connect = function (target, ...rest) {
  if (target instanceof AudioDestinationNode) {
    window.contextRate = this.context.sampleRate;
    this.context.audioWorklet.addModule("data:text/javascript," + encodeURIComponent(code))
      .then(() => {
        const tap = new AudioWorkletNode(this.context, "tap", { numberOfOutputs: 0 });
        tap.port.onmessage = (event) => window.heard.push(...event.data);
        connect.call(this, tap);
        window.tapped = true;
      });
  }
  return connect.call(this, target, ...rest);
};
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium here (Debian: apt install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio"],
        )
        yield browser
        browser.close()


class Visit:
    """A page open in the browser, what it complained of, and what it asked for."""

    def __init__(self, browser: Any, path: Path, tap: bool = False, **options: Any) -> None:
        self.context = browser.new_context(bypass_csp=tap, accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        if tap:
            self.page.add_init_script(_TAP)
        self.page.goto(path.as_uri())

    def ready(self) -> None:
        """Wait until sounds are decoded and the last spectrogram is painted."""
        painted = "[...document.querySelectorAll('.strip[data-sound] canvas')].at(-1)?.height"
        self.until(f"{painted} === 256")

    @property
    def position(self) -> float:
        return float(self.page.locator("#position").input_value()) * SECONDS

    def sound(self) -> str:
        return self.page.locator(".sound[aria-pressed=true]").text_content()

    def until(self, condition: str) -> None:
        """Wait until an expression is true; playwright's own way needs eval, which is banned."""
        for _ in range(400):
            if self.page.evaluate(f"Boolean({condition})"):
                return
            self.page.wait_for_timeout(25)
        raise AssertionError(f"never came true: {condition}")

    def wait_tap(self) -> None:
        self.until("window.tapped")

    def hear(self, seconds: float) -> np.ndarray:
        """Return what is played from now on, shape [seconds * RATE]."""
        count = round(seconds * RATE)
        self.page.evaluate("window.heard = []")
        self.until(f"window.heard.length >= {count}")
        return np.array(self.page.evaluate("window.heard"))[:count]

    def strongest(self) -> float:
        """Return the frequency that is heard."""
        wave = self.hear(0.16)[1000:]
        return float(
            np.argmax(np.abs(np.fft.rfft(wave * np.hanning(wave.size)))) * RATE / wave.size
        )

    def rate_all(self, values: dict[str, int] | None = None) -> None:
        """Hear and rate everything of a trial, by keys and sliders."""
        for i in range(self.page.locator("[data-slider]").count()):
            self.page.keyboard.press(chr(97 + i))
            self.page.wait_for_selector(f".heard[data-sound='{i + 1}']")
            self.page.locator(f"[data-slider='{i}']").fill(str(10 * i))
        self.page.keyboard.press("r")
        self.page.wait_for_selector(".heard[data-sound='0']")

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def visit(browser: Any, page_file: Path) -> Iterator[Visit]:
    visit = Visit(browser, page_file)
    yield visit
    visit.close()


def test_page_loads_from_a_file_in_silence(visit: Visit, page_file: Path) -> None:
    visit.ready()
    page = visit.page
    assert page.title() == TITLE and page.locator("h1").text_content() == TITLE
    assert page.locator("#clip option").all_text_contents() == list(NAMES)
    rows = [r.locator("th, td").all_text_contents() for r in page.locator("tbody tr").all()]
    assert rows == [
        ["1Reference", "–", "–", "–"],
        ["2this codec", "8.02", "2.80", "–"],
        ["3Opus", "8.40", "–", "0.900"],
        ["4G.722", "64.008.0× rate", "–", "–"],
        ["5twin", "8.00", "–", "–"],
    ]
    # The tone of 1 kHz is a bright line an eighth of the way up from 0 to 8 kHz, all else is dark.
    pixels = page.evaluate(
        """() => {
          const canvas = document.querySelector('figure[data-sound="1"] canvas');
          const data = canvas.getContext('2d').getImageData(canvas.width / 2, 0, 1, 256).data;
          return Array.from({ length: 256 }, (_, i) => data[4 * i + 1]);
        }"""
    )
    assert 255 - int(np.argmax(pixels)) == 32 and max(pixels) > 240
    assert np.median(pixels) < 10
    assert visit.complaints == []
    assert [url.split("?")[0] for url in visit.requests] == [page_file.as_uri()]


@pytest.mark.slow
def test_it_plays_and_switches_without_losing_the_position(browser: Any, page_file: Path) -> None:
    visit = Visit(browser, page_file, tap=True)
    page = visit.page
    visit.ready()
    page.click("#play")
    visit.wait_tap()
    assert page.evaluate("window.contextRate") == RATE  # else the browser interpolates linearly
    assert visit.strongest() == pytest.approx(REFERENCE_HZ, abs=8)
    for key, hertz in (("2", 1000), ("3", 2000), ("4", 3000), ("r", 500), ("x", 3000)):
        before = visit.position
        page.keyboard.press(key)
        after = visit.position
        assert (after - before) % SECONDS < 0.3
        assert visit.strongest() == pytest.approx(hertz, abs=8)
    page.get_by_role("button", name="Reference").click()
    assert visit.sound() == "1Reference"
    # Chosen with the other rate and the other clip: the same codec, still playing.
    page.keyboard.press("2")
    before = visit.position
    page.keyboard.press("+")
    assert visit.strongest() == pytest.approx(1000, abs=8) and visit.sound() == "2this codec"
    assert 0 < (visit.position - before) % SECONDS < 1.0
    assert page.locator("tbody tr").nth(1).locator("td").first.text_content() == "16.02"
    page.locator("#clip").select_option("1")
    page.wait_for_timeout(100)
    assert visit.strongest() == pytest.approx(1050, abs=8)
    page.locator("#volume").fill("0")
    page.wait_for_timeout(150)
    assert np.abs(visit.hear(0.1)).max() < 1e-3
    assert visit.complaints == []
    visit.close()


@pytest.mark.slow
def test_switching_between_equal_sounds_cannot_be_heard(browser: Any, page_file: Path) -> None:
    visit = Visit(browser, page_file, tap=True)
    visit.ready()
    visit.page.click("#play")
    visit.wait_tap()
    visit.page.evaluate("window.heard = []")
    for key in ("5", "1", "5", "1"):
        visit.page.keyboard.press(key)
        visit.page.wait_for_timeout(60)
    wave = visit.page.evaluate("window.heard")
    wave = np.array(wave)[1000:]
    assert wave.size > 3000
    # What a sine of this frequency predicts from two samples is the next one; a step, a gap, a
    # shift by one sample or a dip of the level would all break it.
    error = wave[2:] - 2 * np.cos(2 * np.pi * REFERENCE_HZ / RATE) * wave[1:-1] + wave[:-2]
    assert np.abs(error).max() < 2e-4  # 16 bits
    assert np.abs(wave).max() == pytest.approx(0.3, abs=1e-3)
    visit.close()


def test_keys_buttons_and_loop(visit: Visit) -> None:
    page = visit.page
    visit.ready()
    assert page.locator("#play").get_attribute("aria-label") == "Play"
    page.keyboard.press("ArrowRight")
    assert visit.position == pytest.approx(1.0, abs=0.01)
    page.keyboard.press("ArrowLeft")
    assert visit.position == 0
    page.keyboard.press("Space")
    page.wait_for_selector("#play[aria-label=Pause]")
    visit.until("Number(document.querySelector('#position').value) > 0.1")
    page.keyboard.press("Space")
    page.wait_for_selector("#play[aria-label=Play]")
    paused = visit.position
    page.wait_for_timeout(120)
    assert visit.position == paused > 0
    # A sound's button: focus is seen, Enter presses it.
    page.locator("button.sound").nth(2).focus()
    page.keyboard.press("Enter")
    assert visit.sound() == "3Opus"
    style = page.locator("button.sound").nth(2).evaluate("e => getComputedStyle(e).outlineStyle")
    assert style == "solid"
    # Loop between 0.5 s and 1 s.
    page.locator("#position").fill("0.25")
    page.keyboard.press("[")
    page.locator("#position").fill("0.5")
    page.keyboard.press("]")
    page.keyboard.press("Space")
    page.wait_for_timeout(300)
    seen = []
    for _ in range(8):
        seen.append(visit.position)
        page.wait_for_timeout(90)
    assert min(seen) >= 0.49 and max(seen) <= 1.01
    assert any(b < a for a, b in zip(seen, seen[1:], strict=False))  # it went round
    # Without the loop it stops at the end.
    page.keyboard.press("\\")
    page.keyboard.press("l")
    page.locator("#position").fill("0.9")
    page.wait_for_selector("#play[aria-label=Play]")
    assert visit.position == 0
    # A click on a spectrogram chooses its sound and place.
    box = page.locator(".plot").nth(3).bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 20)
    assert visit.sound() == "4G.722" and visit.position == pytest.approx(1.5, abs=0.02)
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible() and visit.complaints == []


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_phone_has_no_horizontal_scrolling(browser: Any, page_file: Path, scheme: str) -> None:
    size = {"width": 360, "height": 740}
    visit = Visit(browser, page_file, viewport=size, has_touch=True, is_mobile=True,
                  color_scheme=scheme)  # fmt: skip
    page = visit.page
    visit.ready()
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) == 360
    scroll = page.locator(".scroll").evaluate("e => e.scrollWidth - e.clientWidth")
    assert scroll == 0  # two metrics fit
    page.tap("button.sound >> nth=1")
    assert visit.sound() == "2this codec"
    page.tap("#tab-blind")
    assert page.evaluate(width) == 360
    page.fill("#listener", "Ann")
    page.tap("#begin")
    page.wait_for_selector("[data-slider]")
    assert page.evaluate(width) == 360
    box = page.locator("[data-slider]").first.bounding_box()
    assert box["width"] > 150 > box["height"] >= 44  # lies, and a finger hits it
    luminance = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")
    assert (int(luminance[0]) > 128) == (scheme == "light")
    visit.close()


@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_uses_its_width(browser: Any, page_file: Path, width: int) -> None:
    visit = Visit(browser, page_file, viewport={"width": width, "height": 844})
    page = visit.page
    visit.ready()
    controls, spectra = (box.bounding_box() for box in page.locator(".compare > .card").all())
    if width == 1440:  # clip, rate and sounds stand beside the spectrograms, from the top on
        assert controls["y"] == spectra["y"] and spectra["x"] > controls["x"] + controls["width"]
        assert spectra["width"] > 0.55 * width
        inside = page.locator("#clip").bounding_box()
        assert inside["x"] + inside["width"] < spectra["x"]
    else:
        assert spectra["y"] > controls["y"] + controls["height"]

    page.click("text=Side by side")
    page.click("button.sound >> nth=1")
    visit.until("document.querySelector('.delta canvas').height === 256")
    shown = [figure for figure in page.locator("figure.strip").all() if figure.is_visible()]
    names = [figure.locator("b").inner_text() for figure in shown]
    assert names == ["Reference", "this codec", "Difference"]
    boxes = [figure.locator(".plot").bounding_box() for figure in shown]
    if width == 1440:
        assert len({round(box["y"]) for box in boxes}) == 1
        assert boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]
    else:
        assert boxes[0]["y"] < boxes[1]["y"] < boxes[2]["y"]
        assert page.evaluate("document.documentElement.scrollWidth") == width
    # Blue where the codec lost something, orange where it added: not one colour alone.
    colours = page.locator(".delta canvas").evaluate(
        "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height)"
        ".data.buffer)).size"
    )
    assert colours > 20
    page.click("button.sound >> nth=0")  # the reference beside itself says nothing
    assert [f.locator("b").inner_text() for f in shown if f.is_visible()] == names
    assert visit.complaints == []
    visit.close()


def begin_test(page: Any, listener: str = "Ann") -> None:
    page.click("#tab-blind")
    page.fill("#listener", listener)
    page.click("#begin")
    page.wait_for_selector("[data-slider]")


def test_blind_test_from_start_to_file(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    listener = 'Zoë "Z", <b>'
    page.click("#tab-blind")
    page.click("#begin")
    assert "who listens" in page.locator(".problem").first.text_content()
    for name in ("twin", "G.722"):  # leave these out
        page.locator(".checks label", has_text=name).click()
    page.fill("#listener", listener)
    page.click("#begin")
    for trial in (1, 2):
        assert page.locator("h2").first.text_content() == f"Trial {trial} of 2"
        assert page.locator("[data-slider]").count() == 4
        # Nothing tells what is what, neither in text nor in attributes.
        dom = page.evaluate(
            """() => {
              const copy = document.documentElement.cloneNode(true);
              for (const script of copy.querySelectorAll('script:not([type]), style')) {
                script.remove();
              }
              for (const sound of copy.querySelectorAll('script[id^=audio]')) {
                sound.textContent = '';
              }
              return copy.outerHTML;
            }"""
        ).lower()
        for name in ("nsvq", "this codec", "opus", "g722", "g.722", "anchor", "flac", "hidden ref"):
            assert name not in dom
        assert page.locator("#next").is_disabled()
        todo = page.locator(".todo")
        assert "listen to the reference, A, B" in todo.text_content().replace("; ", ", ")
        if trial == 1:  # a slider that was only heard, or only moved, is not enough
            page.keyboard.press("a")
            page.wait_for_selector(".heard[data-sound='1']")
            assert "listen to the reference, B" in todo.text_content()
            assert "rate A, B" in todo.text_content()
            page.keyboard.press("Home")  # the slider has the focus; 0 is a rating too
            visit.until("document.querySelector('output').textContent === '0'")
            assert "rate B" in todo.text_content()
            # Ratings outlive a reload, and so does the place.
            page.reload()
            page.wait_for_selector("[data-slider]")
            assert page.locator("output").first.text_content() == "0"
            assert "rate B" in todo.text_content()
        visit.rate_all()
        assert todo.text_content() == "All heard and rated."
        page.click("#next")
    with page.expect_download() as caught:
        page.click("#export")
    path = tmp_path / caught.value.suggested_filename
    caught.value.save_as(path)
    assert re.fullmatch(r"ratings-Zoë-Z-b--8k-\w{4}\.csv", path.name)
    with path.open(encoding="utf-8", newline="") as file:
        assert tuple(next(csv.reader(file))) == COLUMNS
    ratings = read_ratings([path])
    assert len(ratings) == 8 and {r.listener for r in ratings} == {listener}
    assert {r.clip for r in ratings} == set(NAMES) and len({r.session for r in ratings}) == 1
    for clip in NAMES:
        own = [r for r in ratings if r.clip == clip]
        kinds = {r.codec: r.measured_kbps for r in own}
        assert kinds == {"reference": None, "anchor": None, "nsvq": 8.02, "opus": 8.4}
        assert {r.label: r.rating for r in own} == dict(zip("ABCD", range(0, 40, 10), strict=True))
    with pytest.raises(ValueError, match="hidden reference"):
        summarise(ratings)
    # Saved, so it is deleted without a question.
    page.click("#reset")
    assert page.locator("#begin").is_visible()
    page.reload()
    assert page.locator("#tab-compare[aria-selected=true]").count() == 1
    assert visit.complaints == []


@pytest.mark.slow
def test_letters_play_what_the_file_says(browser: Any, page_file: Path) -> None:
    """The tone behind each letter, against what the browser stored for it."""
    visit = Visit(browser, page_file, tap=True)
    page = visit.page
    begin_test(page)
    page.wait_for_timeout(300)
    kept = json.loads(page.evaluate("Object.values(localStorage)[0]"))
    data, _ = embedded(page_file)
    trial = kept["trials"][0]
    sounds, shift = data["clips"][trial["clip"]]["sounds"], 50 * trial["clip"]
    page.keyboard.press("r")
    visit.wait_tap()
    for i, stimulus in enumerate(trial["stimuli"]):
        page.keyboard.press(chr(97 + i))
        codec = sounds[stimulus["sound"]]["codec"] if "sound" in stimulus else ""
        expected = TONES.get(codec, REFERENCE_HZ) + shift
        assert visit.strongest() == pytest.approx(expected, abs=8)
    visit.close()


def test_order_is_random(browser: Any, tmp_path: Path) -> None:
    wave = tone(500, 0.1)
    clips = [ListeningClip(f"{i}", wave, [Sound("nsvq", 8, 8, wave)]) for i in range(8)]
    write_page(tmp_path / "many.html", clips, "t")
    visit = Visit(browser, tmp_path / "many.html")
    page = visit.page
    page.on("dialog", lambda dialog: dialog.accept())
    trials, stimuli = set(), set()
    for _ in range(3):
        begin_test(page)
        kept = json.loads(page.evaluate("Object.values(localStorage)[0]"))
        assert sorted(t["clip"] for t in kept["trials"]) == list(range(8))
        trials.add(tuple(t["clip"] for t in kept["trials"]))
        for trial in kept["trials"]:
            kinds = tuple(s["kind"] for s in trial["stimuli"])
            assert sorted(kinds) == ["anchor", "reference", "sound"]
            stimuli.add(kinds)
        page.click("#reset")
    assert len(trials) > 1 and len(stimuli) > 1  # of 40320 and 6; equal by chance: never
    visit.close()


def test_it_works_where_nothing_may_be_stored(browser: Any, page_file: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('no'); } });"
    )
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(page_file.as_uri())
    begin_test(page)
    assert page.locator(".problem", has_text="keeps nothing").count() == 1 and errors == []
    context.close()
