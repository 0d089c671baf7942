from pathlib import Path

from benchmarks.records import HEADER, MARKERS, Record, draw, records

PAGE = f"""Text.

{HEADER}
| --- | --- | --- | --- | --- | --- |
| `best`, 40 epochs | directly | two cores, Zen 5 | 14.4 | 23.0 | 17.7 to 29.3 |
| `new` | after reciting | one H100 | 0.5 | 99 | 98 to 99.5 |

More text.
"""


def test_the_picture_is_drawn_from_the_table(tmp_path):
    first = Record("best, 40 epochs", "directly", "two cores, Zen 5", 14.4, 23.0, 17.7, 29.3)
    second = Record("new", "after reciting", "one H100", 0.5, 99.0, 98.0, 99.5)
    assert records(PAGE) == [first, second]
    draw([first, second], tmp_path / "records.png")
    assert (tmp_path / "records.png").read_bytes().startswith(b"\x89PNG")


def test_every_record_of_the_page_can_be_drawn():
    found = records(Path("docs/speedrun.md").read_text("utf-8"))
    assert {"best", "speedrun", "best_recite"} <= {record.recipe for record in found}
    for record in found:
        assert record.low <= record.right <= record.high <= 100
        assert any(kind in record.hardware for kind in MARKERS)
