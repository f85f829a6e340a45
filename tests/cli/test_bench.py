import json

from tests.conftest import Bcnet


def test_the_model_bench_compares_both_heads(bcnet: Bcnet) -> None:
    small = ("--backbone", "tiny", "--size", "64x64", "--repeats", "1", "--detections", "20")
    done = bcnet("bench", "model", *small, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["detector"] for row in rows] == ["fcos", "faster_rcnn"]
    for row in rows:
        for plain, bilayer in (row["step"], row["inference"]):
            assert plain > 0 and bilayer > 0
        assert row["detections"] == [20, 20], "or the inference of masks would not be measured"
        assert row["memory"][0] > 1e8 and 0 < row["target_share"] < 1


def test_what_cannot_be_benched_is_said(bcnet: Bcnet) -> None:
    for arguments, word in ((["--size", "64"], "64"), (["--backbone", "vgg"], "vgg")):
        done = bcnet("bench", "model", *arguments)
        assert done.returncode == 2 and word in done.stderr and "Traceback" not in done.stderr
