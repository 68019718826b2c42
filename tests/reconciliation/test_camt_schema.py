"""What we take for CAMT.053 in our tests is CAMT.053, by ISO 20022's own schemas."""

from functools import cache

import pytest
from lxml import etree

from tests.reconciliation.test_bank_files import FOLDER, camt, camt_of, content

EXAMPLES = sorted(path.name for path in FOLDER.glob("*.xml"))


@cache
def schema(namespace: str) -> etree.XMLSchema:
    """A version's, which a file names as its namespace."""
    return etree.XMLSchema(etree.parse(FOLDER / f"{namespace.rpartition(':')[2]}.xsd"))


def problems(data: bytes) -> list[str]:
    root = etree.fromstring(data)
    rules = schema(etree.QName(root).namespace)
    rules.validate(root)
    return [problem.message for problem in rules.error_log]


def test_examples_of_both_versions_are_there():
    versions = {etree.QName(etree.fromstring(content(name))).namespace[-15:] for name in EXAMPLES}
    assert versions == {"camt.053.001.02", "camt.053.001.08"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_as_its_schema_says(name):
    assert problems(content(name)) == []


def test_so_is_the_long_one_that_tests_make():
    assert problems(camt_of(3)) == []


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("<CdtDbtInd>DBIT</CdtDbtInd>", "", "CdtDbtInd )"),
        ('<Amt Ccy="EUR">4.90</Amt>', "<Amt>4.90</Amt>", "The attribute 'Ccy' is required"),
        ("DE89370400440532013000", "no IBAN", "facet 'pattern'"),
        ("<NtryRef>2</NtryRef>", "<Entry>2</Entry>", "This element is not expected"),
        ("2026-01-13T09:30:00+01:00", "2026-13-01", "not a valid value of the atomic type"),
    ],
)
def test_a_broken_one_is_told(name, old, new, told):
    """So that the schemas are known to say no."""
    found = problems(camt(old, new, name))
    assert any(told in problem for problem in found), found
