"""The image experiment: held-out parts stay unseen, scores are right, the quick run is complete."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

for package in ("skimage", "sklearn"):
    pytest.importorskip(package, reason="needs the extra [experiments]")

from PIL import Image  # noqa: E402

from experiments.nsvq_paper.images.__main__ import main  # noqa: E402
from experiments.nsvq_paper.images.model import ImageVQVAE, code, quality  # noqa: E402
from experiments.nsvq_paper.images.pictures import cut_patches, list_pictures  # noqa: E402
from experiments.nsvq_paper.images.settings import ROWS, Settings  # noqa: E402
from experiments.nsvq_paper.images.tables import roughness  # noqa: E402
from models.quantizers import perplexity  # noqa: E402


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command in this process; return exit code, stdout, stderr."""
    status = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as leave:
        status = int(leave.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.slow
def test_quick_run_writes_all_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--quick", "--jobs", 1, "--out", tmp_path / "out", "--work", tmp_path / "work")
    status, out, err = run(capsys, *command)
    assert (status, err) == (0, "")
    assert "split by region" in out and "[6/6]" in out
    for name in ("images.png", "images_training.png", "images_examples.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 300
    text = (tmp_path / "out" / "images.json").read_text()
    report = json.loads(text)
    assert report["command"] == "python -m experiments.nsvq_paper.images --quick"
    assert report["quick"] and report["data"]["pictures"] >= 5
    entries = {(entry["row"], entry["bits"]): entry for entry in report["results"]}
    assert len(entries) == 6
    for (_, bits), entry in entries.items():
        assert entry["bits_per_patch"] == 64 * bits
        assert entry["bits_per_pixel"] == bits / 16
        assert 0.1 < entry["ssim"] < 1 and 12 < entry["peak_snr_db"] < 40
        assert 1 <= entry["perplexity"] <= entry["used"] <= 2**bits
        assert entry["curve"]["train_mse"][-1] < entry["curve"]["train_mse"][0]
    # What replacement is for: many more codewords in use.
    assert entries["NSVQ", 10]["perplexity"] > 2 * entries["STE", 10]["perplexity"]
    assert (
        entries["NSVQ", 10]["seeds"][0]["replaced"]
        and not entries["STE", 10]["seeds"][0]["replaced"]
    )
    # A second time nothing is trained again, the same comes out, and a page gets the tables.
    page = tmp_path / "out" / "images.md"
    page.write_text("before\n<!-- tables -->\nold\n<!-- end of tables -->\nafter\n")
    status, out, _ = run(capsys, *command)
    assert status == 0 and "6 of 6 runs are kept" in out and "[1/" not in out
    assert (tmp_path / "out" / "images.json").read_text() == text
    written = page.read_text()
    assert written.startswith("before\n<!-- tables -->\n") and written.endswith("\nafter\n")
    assert "old" not in written and f"| {entries['NSVQ', 10]['ssim']:.3f} |" in written


def test_no_training_patch_touches_a_held_out_block(tmp_path: Path) -> None:
    # Each pixel says where it is; too low a picture for a half-size copy.
    height, width = 250, 900
    y, x = np.mgrid[:height, :width]
    where = np.stack([y, x % 256, x // 256], -1).astype(np.uint8)
    patches = cut_patches([save(tmp_path / "a.png", where)])
    assert patches.about["split"] == "by region"

    def seen(cut: np.ndarray) -> set[int]:
        values = cut.reshape(-1, 3).astype(int)
        return set((values[:, 0] * 1024 + values[:, 1] + 256 * values[:, 2]).tolist())

    train, test = seen(patches.train), seen(patches.test)
    assert len(test) == len(patches.test) * 32 * 32  # they do not overlap
    assert not train & test
    assert len(train) > 4 * len(test)
    assert seen(patches.examples) <= test


def test_many_pictures_are_split_by_picture(tmp_path: Path) -> None:
    pixels = noise(40, 104)
    for i in range(60):
        pixels[:] = i
        save(tmp_path / f"{i:02}.png", pixels)
    (tmp_path / "notes.txt").write_text("no picture")
    patches = cut_patches(list_pictures(tmp_path))
    train, test = set(patches.train.flat), set(patches.test.flat)
    assert patches.about["split"] == "by picture"
    assert not train & test
    assert len(train) == 48 and len(test) == 12
    assert patches.examples.shape == (8, 32, 32, 3)
    again = cut_patches(list_pictures(tmp_path))
    assert again.about == patches.about


def test_scores_of_known_errors() -> None:
    reference = noise(32, 32)[None] // 2 + 40
    same = quality(reference, reference)
    assert same["ssim"] == 1 and same["mse"] == 0
    assert same["peak_snr_db"] == pytest.approx(10 * np.log10(255**2 * 12))
    off = quality(reference, reference + 10)
    assert off["peak_snr_db"] == pytest.approx(28.131, abs=1e-3)
    assert off["mse"] == pytest.approx((10 / 255) ** 2)
    assert 0.9 < off["ssim"] < 1
    assert perplexity(torch.tensor([5, 5, 0, 5, 5])) == pytest.approx(4)
    assert perplexity(torch.tensor([0, 7, 0])) == pytest.approx(1)
    assert roughness([9, 9, 1, 1, 1]) == 0
    assert roughness([9, 9, 1, 3]) == pytest.approx(1)


def test_all_rows_start_from_the_same_network() -> None:
    settings = Settings(channels=8, dim=4)
    starts = []
    for row in ROWS:
        torch.manual_seed(3)
        model = ImageVQVAE(row.method, 16, settings)
        starts.append([model.encoder[0].weight, model.decoder[0].weight, model.quantizer.codebook])
    for start in starts[1:]:
        assert all(torch.equal(a, b) for a, b in zip(starts[0], start, strict=True))


def test_decoded_pictures_depend_on_the_indices_alone() -> None:
    torch.manual_seed(0)
    model = ImageVQVAE("nsvq", 16, Settings(channels=8, dim=4))
    pictures = noise(64, 64)[None]
    decoded, indices = code(model, pictures)
    grid = torch.from_numpy(indices).reshape(1, 16, 16)
    with torch.no_grad():
        out = model.decoder(model.quantizer.decode(grid).permute(0, 3, 1, 2))
    expected = ((out + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: d / "nowhere", "is not a directory"),
        (lambda d: d, "no pictures"),
        (lambda d: ((d / "a.png").write_bytes(b"no"), d)[1], "as a picture"),
        (lambda d: (save(d / "a.png", noise(100, 100)), d)[1], "too little to learn from"),
    ],
)
def test_bad_data_is_one_line(make, says, tmp_path, capsys) -> None:
    status, out, err = run(capsys, "--quick", "--data", make(tmp_path), "--out", tmp_path / "out")
    assert status == 2 and out == ""
    assert says in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bad_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    bits = (("--bits", "8,x"), ("--bits", "8,40"), ("--bits", ""))
    counts = (("--jobs", 0), ("--seeds", 0), ("--steps", 3))
    for bad in (*bits, *counts, ("--out", tmp_path / "file")):
        status, out, err = run(capsys, "--quick", "--work", tmp_path / "work", *bad)
        assert status == 2 and out == ""
        assert err.startswith("error: ") and err.count("\n") == 1


def test_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in sys.modules if n.startswith("experiments.nsvq_paper.images")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(SystemExit) as leave:
        runpy.run_module("experiments.nsvq_paper.images")
    err = capsys.readouterr().err
    assert leave.value.code == 2
    assert "skimage" in err and "pip install '.[experiments]'" in err and err.count("\n") == 1
