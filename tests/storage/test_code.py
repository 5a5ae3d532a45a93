"""A user's own code as a part of a store's identity: compared, refused, accepted, merged."""

import json
import sys

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.experiment import Outcome
from pipeline.grid import CODE, parse_sweep
from storage import Writer, changed_code, merge, open_results, pending, sweep_status
from storage.document import read_document
from storage.location import ROOT, locate

MODULE = "import numpy as np\nfrom own_scale import SCALE\n\n\ndef f(X, Y, power=1.0):\n    return SCALE * X @ Y.T\n"
SPEC = """
name: own
grid:
  - {{function: {functions}, sampling: [ball-symmetric], m: {m}, n: [20], r: [2], method: [svd], seeds: 2}}
"""
OFFER = "use another --store, or --accept-code if you know that its values are the same"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A sweep of `own_code:f` as the module stands with a scale, imported anew."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])

    def sweep(scale=1, functions="['own_code:f']", m="[2]", comment=""):
        for name in ("own_code", "own_scale"):
            sys.modules.pop(name, None)
        (tmp_path / "own_code.py").write_text(MODULE + comment)
        (tmp_path / "own_scale.py").write_text(f"SCALE = {scale}\n")
        return parse_sweep(SPEC.format(functions=functions, m=m), allow_code=True)

    yield sweep
    for name in ("own_code", "own_scale"):
        sys.modules.pop(name, None)


def fill(path, sweep, outcome=None, **accepted):
    values = {"epsilon": 0.5, "lower_bound": 0.0, "max_norm": 1.0, "iterations": 1, "seconds": 0.0}
    with Writer.open(path, sweep, **accepted) as writer:
        cells = np.argwhere(pending(sweep, sweep_status(path, sweep, **accepted), retry_failed=True))
        if len(cells):
            writer.write(cells, [outcome or Outcome(values)] * len(cells))
    return len(cells)


def forget_digests(path):
    """Make a store what 0.8.0 has left."""
    location = locate(path)
    document = read_document(location)
    settings = {name: each for name, each in json.loads(document.attributes["settings"]).items() if CODE not in each}
    location.write({ROOT: document.with_attributes({"settings": json.dumps(settings)}).dump()})


def test_changed_constant_is_refused_with_the_function_and_the_remedies(make, tmp_path):
    fill(tmp_path / "s.zarr", make())
    for refused in (
        lambda sweep: sweep_status(tmp_path / "s.zarr", sweep),
        lambda sweep: fill(tmp_path / "s.zarr", sweep),
    ):
        with pytest.raises(
            StoreError, match=rf"s.zarr was computed with other code of own_code:f .*; {OFFER}"
        ) as caught:
            refused(make(scale=2, m="[2, 3]"))
        assert "\n" not in str(caught.value)
    assert open_results(tmp_path / "s.zarr").sizes["m"] == 1


def test_comment_is_no_change_and_new_labels_are_computed(make, tmp_path):
    fill(tmp_path / "s.zarr", make())
    assert fill(tmp_path / "s.zarr", make(m="[2, 3]", comment="# done\n")) == 2


def test_accepted_code_is_recorded_and_what_it_replaced_is_kept(make, tmp_path):
    first = make()
    fill(tmp_path / "s.zarr", first)
    second = make(scale=1.0, m="[2, 3]")
    assert changed_code(tmp_path / "s.zarr", second) == ["own_code:f"]
    assert fill(tmp_path / "s.zarr", second, accept_code=True) == 2
    assert changed_code(tmp_path / "s.zarr", second) == []
    assert fill(tmp_path / "s.zarr", second) == 0
    attributes = open_results(tmp_path / "s.zarr").attrs
    assert json.loads(attributes["settings"])["own_code:f"][CODE] == second.code["own_code:f"]
    accepted = [session.get("accepted_code") for session in json.loads(attributes["sessions"])]
    assert accepted == [None, first.code, None]
    with pytest.raises(StoreError, match="other code of own_code:f"):
        sweep_status(tmp_path / "s.zarr", make())


def test_parameters_are_labels_of_one_code(make, tmp_path):
    fill(tmp_path / "s.zarr", make(functions="[{name: 'own_code:f', power: 2}]"))
    with pytest.raises(StoreError, match="other code of own_code:f "):
        fill(tmp_path / "s.zarr", make(scale=2, functions="['own_code:f']"))


def test_function_that_is_no_part_of_the_spec_or_has_no_finished_cell_is_not_asked_for(make, tmp_path):
    failed = Outcome(None, "ValueError: no")
    fill(tmp_path / "s.zarr", make(functions="['own_code:f', gaussian]"), failed)
    assert fill(tmp_path / "s.zarr", make(scale=2, functions="['own_code:f', gaussian]")) == 4  # mended, then retried
    assert fill(tmp_path / "s.zarr", make(scale=3, functions="[gaussian, cauchy]")) == 2


def test_store_without_digests_is_refused_where_cells_are_done_and_has_them_once_accepted(make, tmp_path):
    fill(tmp_path / "s.zarr", make())
    forget_digests(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match=rf"s.zarr does not say with what code own_code:f was computed; {OFFER}"):
        sweep_status(tmp_path / "s.zarr", make())
    assert fill(tmp_path / "s.zarr", make(), accept_code=True) == 0
    assert fill(tmp_path / "s.zarr", make(m="[2, 3]")) == 2
    with pytest.raises(StoreError, match="other code"):
        sweep_status(tmp_path / "s.zarr", make(scale=2))


def test_store_without_digests_and_finished_cells_takes_the_code_of_its_next_run(make, tmp_path):
    with Writer.open(tmp_path / "s.zarr", make()):
        pass
    forget_digests(tmp_path / "s.zarr")
    assert fill(tmp_path / "s.zarr", make(scale=2)) == 2
    assert changed_code(tmp_path / "s.zarr", make(scale=2)) == []


def test_merge_compares_code(make, tmp_path):
    for name, scale, m in (("a", 1, "[2]"), ("b", 1, "[3]"), ("c", 2, "[4]")):
        fill(tmp_path / f"{name}.zarr", make(scale=scale, m=m))
    assert merge(tmp_path / "a.zarr", tmp_path / "b.zarr").copied == 2
    with pytest.raises(StoreError, match=f"other code of own_code:f than the other store has; {OFFER}"):
        merge(tmp_path / "a.zarr", tmp_path / "c.zarr")
    assert merge(tmp_path / "a.zarr", tmp_path / "c.zarr", accept_code=True).copied == 2
    sessions = json.loads(open_results(tmp_path / "a.zarr").attrs["sessions"])
    assert [session["accepted_code"] for session in sessions if "accepted_code" in session] == [make(scale=1).code]
    assert changed_code(tmp_path / "a.zarr", make(scale=1)) == []


@pytest.mark.parametrize("which", ["a", "b"])
def test_merge_of_a_store_without_digests_needs_acceptance(make, tmp_path, which):
    fill(tmp_path / "a.zarr", make())
    fill(tmp_path / "b.zarr", make(m="[3]"))
    forget_digests(tmp_path / f"{which}.zarr")
    with pytest.raises(StoreError, match=f"{which}.zarr|the other store does not say with what code own_code:f"):
        merge(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert merge(tmp_path / "a.zarr", tmp_path / "b.zarr", accept_code=True).copied == 2
    assert changed_code(tmp_path / "a.zarr", make()) == []


def test_merge_into_a_store_where_the_function_only_failed_takes_the_code_of_the_finished_cells(make, tmp_path):
    fill(tmp_path / "a.zarr", make(), Outcome(None, "ValueError: no"))
    fill(tmp_path / "b.zarr", make(scale=2))
    assert merge(tmp_path / "a.zarr", tmp_path / "b.zarr").copied == 2
    assert changed_code(tmp_path / "a.zarr", make(scale=2)) == []
