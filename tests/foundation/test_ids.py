from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import NotFound
from foundation.ids import parse_public_id, public_id, uuid7


@given(st.uuids())
def test_a_public_id_leads_back_to_its_uuid(value):
    assert parse_public_id("ord", public_id("ord", value)) == value


def test_public_ids_follow_typeid():
    assert public_id("prefix", UUID("01890a5d-ac96-774b-bcce-b302099a8057")) == "prefix_01h455vb4pex5vsknk084sn02q"


def test_ids_are_ordered_by_time():
    made = [uuid7() for _ in range(100)]
    assert made == sorted(made)


@pytest.mark.parametrize(
    "text", ["", "ord_", "pay_01h455vb4pex5vsknk084sn02q", "ord_" + "z" * 26, "ord_" + "u" * 26, "ord_1"]
)
def test_anything_else_is_not_found(text):
    with pytest.raises(NotFound):
        parse_public_id("ord", text)
