import pytest

from latencykit.errors import UsageError
from nas.workspace import Workspace


def test_a_seeds_files_lie_in_its_rows_folder(tmp_path):
    workspace = Workspace(tmp_path)
    folder = workspace.seed("U-Net(16)", 3)
    assert folder.path == workspace.row("U-Net(16)") / "seed3" == tmp_path / "U-Net(16)" / "seed3"
    assert folder.model == folder.path / "model.onnx"
    assert (folder.search, folder.train) == (folder.path / "search", folder.path / "train")
    assert folder.scores("valid") == folder.path / "scores-valid.json"


def test_results_and_the_final_log_lie_at_the_top(tmp_path):
    workspace = Workspace(tmp_path)
    assert (workspace.results, workspace.final_log) == (tmp_path / "results.csv", tmp_path / "final.jsonl")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../up", "a/b", "a/", "/etc", "a\\b", ".hidden", " a", "a ", "a\nb", "a\tb", "\0"],
)
def test_a_row_name_that_is_a_path_or_no_plain_text_is_refused_with_a_remedy(tmp_path, name):
    with pytest.raises(UsageError, match=r"no plain folder name; use letters, digits and dashes") as refused:
        Workspace(tmp_path).row(name)
    assert repr(name) in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["unet16", "U-Net(16)", "nas s4", "λ=0.1", "a.b"])
def test_a_plain_name_is_a_folder_of_that_name(tmp_path, name):
    assert Workspace(tmp_path).row(name).parent == tmp_path
    assert Workspace(tmp_path).row(name).name == name
