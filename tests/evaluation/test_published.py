"""Published scores: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.published import read_scores

HEAD = "file,codec,nominal_bps,actual_bps,pesq_wb,psnr_db,estoi\n"


def test_read_scores(tmp_path: Path) -> None:
    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    a.write_text(HEAD + "x/1.wav,evs,8000,8010,3.0,7.0,\nx/1.wav,evs,9600,,3.1,,.8\n")
    b.write_text(
        "file,codec,nominal_bps,visqol_speech,dnsmos_ovrl,other\n"
        "x/1.wav,ref,0,4.5,3.5,0\nx/1.wav,evs,8000,4.0,3.0,0\n"
    )
    first, second = read_scores([a, b])
    assert (first.file, first.codec, first.nominal_bps) == ("x/1.wav", "evs", 8000)
    assert first.actual_bps == 8010
    assert first.scores == {
        "pesq_wb": 3.0, "psnr_db": 7.0, "estoi": None, "visqol": 4.0, "dnsmos": 3.0
    }  # fmt: skip
    assert (second.nominal_bps, second.actual_bps) == (9600, None)
    assert read_scores([]) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("codec,taste\nopus,good\n", "line 1: no column file, nominal_bps"),
        ("", "line 1: no column file, codec, nominal_bps"),
        ("file,codec,nominal_bps,actual_bps\n", "line 1: no column of a metric"),
        ("file,codec,nominal_bps,loss_percent,estoi\n", "packet loss"),
        ("file,codec,nominal_bps,visqol,visqol_speech\n", "line 1: visqol and visqol_speech"),
        (HEAD, "has no scores"),
        (HEAD + "a,x,8000,8000,1,1,1\na,x,9600,9600,good,1,1\n", "line 3: pesq_wb is 'good'"),
        (HEAD + "a,x,8000,8000,nan,1,1\n", "line 2: pesq_wb is 'nan', not a number"),
        (HEAD + "a,x,8000,8000,1,1\n", "line 2 has not as many cells"),
        (HEAD + "a,x,8000,8000,1,1,1,1\n", "line 2 has not as many cells"),
        (HEAD + ",x,8000,8000,1,1,1\n", "line 2: no file"),
        (HEAD + "a,x,,8000,1,1,1\n", "line 2: no nominal_bps"),
        (HEAD + "a,x,8000,-1,1,1,1\n", "line 2: actual_bps is -1, not positive"),
        (HEAD + "a,x,8000,8000,1,1,1\n" * 2, "line 3: the same clip, codec and rate as line 2"),
        ('"' + HEAD, "is no CSV"),
        ("\xff", "is no text in UTF-8"),
    ],
)
def test_wrong_scores(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError) as caught:
        read_scores([path])
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scores_that_contradict_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, score in zip(paths, ("3.0", "3.5"), strict=True):
        path.write_text(HEAD + f"a,evs,8000,8000,{score},7,.9\n")
    with pytest.raises(ValueError, match="b.csv: line 2: pesq_wb of a, evs at 8000 bit/s"):
        read_scores(paths)
