import pytest

from tests.campaigns import report


def test_a_section_is_replaced_and_nothing_else(tmp_path):
    document = tmp_path / "page.md"
    document.write_text(
        "above\n<!-- begin crash -->\nold\n<!-- end crash -->\n<!-- begin soak -->\nkept\n<!-- end soak -->\n"
    )

    report.write_section(document, "crash", r"| a \1 | b |")

    assert document.read_text() == (
        "above\n<!-- begin crash -->\n\n| a \\1 | b |\n\n<!-- end crash -->\n<!-- begin soak -->\nkept\n<!-- end soak -->\n"
    )


def test_a_section_that_is_not_there_is_told(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("nothing")
    with pytest.raises(report.SectionMissing):
        report.write_section(document, "crash", "text")


@pytest.mark.parametrize("name", ["crash", "boundaries", "soak"])
def test_each_campaign_has_its_section(name):
    assert report.RELIABILITY.read_text().count(f"<!-- begin {name} -->") == 1
    assert report.RELIABILITY.read_text().count(f"<!-- end {name} -->") == 1


def test_a_heading_tells_commit_seed_and_machine():
    line = report.heading(seed=7)
    assert "Commit `" in line
    assert "seed 7" in line
    assert "PostgreSQL 18" in line


def test_a_table_aligns_numbers_to_the_right():
    assert report.table(["target", "kills"], [["web", 7], ["postgres", 1200]]) == (
        "| target   | kills |\n| -------- | ----: |\n| web      |     7 |\n| postgres | 1,200 |"
    )
