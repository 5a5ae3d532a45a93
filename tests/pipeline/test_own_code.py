"""A user's own code: its digest changes with what it computes and with nothing else, and no other module hides it."""

import importlib
import os
import py_compile
import sys
from pathlib import Path

import pytest

from pipeline.errors import CodeError, InputError
from pipeline.own_code import check_code, code_digest, imported
from pipeline.syntax import read_source

MAIN = '''
"""What it is."""
import numpy as np
from kernels import base  # beside

SCALE = 2.0


def f(X, Y):
    """Entries."""
    return base(X, Y) * SCALE
'''
HELPER = "import numpy as np\n\n\ndef base(X, Y):\n    return np.exp(-(X @ Y.T))\n"
NAMES = ("mine", "kernels", "bundle", "bundle.main", "bundle.sub", "late", "hidden_mine")


def forget():
    for name in [each for each in sys.modules if each.partition(".")[0] in {name.partition(".")[0] for name in NAMES}]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """Write files and tell the digest of a function of theirs, in a folder of its own each time."""
    folders = iter(range(100))

    def find(files: dict[str, str | bytes], name: str = "mine:f") -> str:
        folder = tmp_path / str(next(folders))
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())
        forget()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [*sys.path, str(folder)])
            imported("function", name)
            return code_digest(name)

    yield find
    forget()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    forget()
    yield tmp_path
    forget()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# beside", "# in another file"),
        ("SCALE = 2.0", "SCALE = (2.00)"),
        ('"""Entries."""', "'''Other words.'''"),
        ("\n\n\ndef", "\n\n\n\n# of points\ndef"),
        ("return base(X, Y) * SCALE", "return (\n        base(X,   Y)\n        * SCALE\n    )"),
        ("\n", "\r\n"),
    ],
)
def test_comments_formatting_and_docstrings_change_nothing(digest, old, new):
    assert digest({"mine.py": MAIN, "kernels.py": HELPER}) == digest(
        {"mine.py": MAIN.replace(old, new), "kernels.py": HELPER}
    )


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("mine.py", "2.0", "2"),
        ("mine.py", "2.0", "2.5"),
        ("mine.py", "base(X, Y) * SCALE", "base(Y, X) * SCALE"),
        ("kernels.py", "X @ Y.T", "X @ Y.T + 1"),
        ("kernels.py", "np.exp", "np.exp2"),
    ],
)
def test_what_is_computed_changes_it_in_the_module_and_beside(digest, file, old, new):
    files = {"mine.py": MAIN, "kernels.py": HELPER}
    assert digest(files) != digest(files | {file: files[file].replace(old, new)})


@pytest.mark.parametrize(
    "statement",
    [
        "def g():\n    import late",
        "try:\n    import late\nexcept ImportError:\n    late = None",
        "from late import *",
        "import importlib\nlate = importlib.import_module('late')",
        "from importlib import import_module\ndef g():\n    return import_module(name='late')",
        "late = __import__('late')",
        "import importlib\ndef g(which):\n    return importlib.import_module(which)",
        "from importlib import import_module as take\nlate = take('late')",
        "def g():\n    exec(open('late.py').read())",
        "late = __import__('late', fromlist=['x'])",
        "import pkgutil\nA = pkgutil.resolve_name('late:A')",
        "import importlib\ndef g(which):\n    return importlib.import_module('.late', which)",
    ],
)
def test_modules_beside_count_however_they_are_imported(digest, statement):
    main = f"{statement}\ndef f(X, Y):\n    return X @ Y.T\n"
    assert digest({"mine.py": main, "late.py": "A = 1"}) == digest({"mine.py": main, "late.py": "A = 1  # one"})
    assert digest({"mine.py": main, "late.py": "A = 1"}) != digest({"mine.py": main, "late.py": "A = 2"})


@pytest.mark.parametrize(
    ("main", "changed"),
    [
        ("from . import sub", "bundle/sub.py"),
        ("from .sub import A", "bundle/sub.py"),
        ("from bundle.sub import A", "bundle/sub.py"),
        ("def g():\n    from .deep.more import A", "bundle/deep/more.py"),
        ("from importlib import import_module\nsub = import_module('.sub', __package__)", "bundle/sub.py"),
        ("from bundle import *", "bundle/sub.py"),
        ("from .deep import more", "bundle/deep/__init__.py"),
        ("import kernels", "kernels.py"),
        ("", "bundle/__init__.py"),
    ],
)
def test_packages_count_module_by_module(digest, main, changed):
    files = {
        "bundle/__init__.py": "__all__ = ['sub']\n",
        "bundle/main.py": f"{main}\ndef f(X, Y):\n    return X @ Y.T\n",
        "bundle/sub.py": "A = 1\n",
        "bundle/unused.py": "A = 1\n",
        "bundle/deep/__init__.py": "",
        "bundle/deep/more.py": "A = 1\n",
        "kernels.py": "A = 1\n",
    }
    found = digest(files, "bundle.main:f")
    assert found != digest(files | {changed: files[changed] + "B = 2\n"}, "bundle.main:f")
    assert found == digest(files | {"bundle/unused.py": "A = 2\n"}, "bundle.main:f")


def test_function_that_another_module_defines_counts_there(digest):
    main = "import sys\nimport late\nf = vars(sys.modules['late'])['made']('kernels')\n"
    late = "import importlib\ndef made(name):\n    return importlib.import_module(name).base\n"
    files = {"mine.py": main, "late.py": late, "kernels.py": HELPER}
    assert digest(files) != digest(files | {"kernels.py": HELPER.replace("exp", "exp2")})


def test_module_in_folders_that_are_no_packages_counts_where_it_is_imported_late(digest):
    main = "def f(X, Y):\n    from plugins.deep.more import late\n    return late.A\n"
    files = {"mine.py": main, "plugins/deep/more/late.py": "A = 1"}
    assert digest(files) != digest(files | {"plugins/deep/more/late.py": "A = 2"})


@pytest.mark.parametrize("changed", ["plugins/late.py", "plugins/deep/late.py"])
def test_modules_in_a_folder_that_is_no_package_count_where_names_are_computed(digest, changed):
    """Kind: what a computed name may import; a folder without modules, such as one of data, is not looked into."""
    main = "import importlib\ndef f(X, Y):\n    return importlib.import_module(f'plugins.{X}').A\n"
    files = {"mine.py": main, "plugins/late.py": "A = 1", "plugins/deep/late.py": "A = 1", "data/x/late.py": "A = 1"}
    assert digest(files) != digest(files | {changed: "A = 2"})
    assert digest(files) == digest(files | {"data/x/late.py": "A = 2", "plugins/notes.txt": "A = 2"})


def test_compiled_module_counts_where_names_are_computed(digest, tmp_path):
    compiled = []
    for value in (1, 2):
        (tmp_path / "x.py").write_text(f"A = {value}\n")
        compiled.append(Path(py_compile.compile(str(tmp_path / "x.py"), str(tmp_path / "x.pyc"))).read_bytes())
    main = "import importlib\ndef f(X, Y):\n    return importlib.import_module(X)\n"
    one, other = (digest({"mine.py": main, "late.pyc": each}) for each in compiled)
    assert one != other


def test_link_to_the_folder_itself_is_followed_once(folder):
    (folder / "mine.py").write_text("import importlib\ndef f(X, Y):\n    return importlib.import_module(X)\n")
    (folder / "again").symlink_to(folder)
    imported("function", "mine:f")
    assert len(code_digest("mine:f")) == 64


def test_compiled_module_counts_by_its_bytes(digest, tmp_path):
    compiled = []
    for value in (1, 2):
        (tmp_path / "x.py").write_text(f"A = {value}\n")
        compiled.append(Path(py_compile.compile(str(tmp_path / "x.py"), str(tmp_path / "x.pyc"))).read_bytes())
    main = "import late\ndef f(X, Y):\n    return X @ Y.T\n"
    first, again, other = (digest({"mine.py": main, "late.pyc": each}) for each in (*compiled[:1], *compiled))
    assert first == again != other


def test_cached_bytecode_of_an_earlier_source_is_not_taken_for_it(folder):
    """A source of the same length and second: Python would run what it has cached."""
    source = folder / "mine.py"
    source.write_text("A = 1\ndef f(X, Y):\n    return A\n")
    os.utime(source, (1e9, 1e9))
    py_compile.compile(str(source), doraise=True)
    assert list(folder.glob("__pycache__/mine.*"))
    source.write_text("A = 2\ndef f(X, Y):\n    return A\n")
    os.utime(source, (1e9, 1e9))
    assert imported("function", "mine:f")(None, None) == 2


def test_digest_is_of_what_was_imported_until_it_is_imported_again(folder):
    (folder / "mine.py").write_text(MAIN)
    (folder / "kernels.py").write_text(HELPER)
    imported("function", "mine:f")
    before = code_digest("mine:f")
    (folder / "kernels.py").write_text(HELPER.replace("exp", "exp2"))
    assert code_digest("mine:f") == before
    forget()
    imported("function", "mine:f")
    assert code_digest("mine:f") != before
    with pytest.raises(CodeError, match=r"code: mine:f, imported there from .*mine.py, is not that of the run"):
        check_code({"mine:f": before})


def test_module_that_others_imported_before_its_file_changed_is_refused(folder, monkeypatch):
    (folder / "mine.py").write_text("def f(X, Y):\n    return X @ Y.T\n")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "meta_path", [each for each in sys.meta_path if type(each).__name__ != "_KeepingFinder"])
        importlib.import_module("mine")
    with pytest.raises(CodeError, match=r"mine was imported before .*mine.py was changed, or just after: restart"):
        code_digest("mine:f")


def test_missing_module_is_named_with_where_a_worker_looks(folder):
    with pytest.raises(CodeError, match=r"'hidden_mine:f' cannot be imported .* where this worker was started"):
        check_code({"hidden_mine:f": "0"})


def test_functions_of_packages_that_are_needed_anyway_are_known_by_their_versions():
    assert code_digest("operator:matmul") == "Python"
    imported("function", "scipy.spatial.distance:cdist")
    assert code_digest("scipy.spatial.distance:cdist").startswith("scipy 1.")


@pytest.mark.parametrize("name", ["storage", "pipeline", "queue", "random", "numpy", "_thread"])
def test_own_module_with_the_name_of_another_is_told_to_be_renamed(folder, name):
    (folder / f"{name}.py").write_text("def f(X, Y):\n    return X @ Y.T\n")
    with pytest.raises(InputError, match=rf"function: '{name}:f': .*{name}.py is hidden by .*{name}; rename") as caught:
        imported("function", f"{name}:f")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("mine:g", "A = 1\n", "define g in {folder}/mine.py, or name what is there"),
        ("mine:f", "def f(X Y\n", "mend {folder}/mine.py, or install what it imports"),
        ("mine:f", "import no_such_module_here\n", "mend {folder}/mine.py, or install what it imports"),
        ("hidden_mine.sub:f", "", "put hidden_mine/sub.py beside the spec, in the working directory or on PYTHONPATH"),
        ("mine:K.f", "", "write module:name, such as mine:f"),
        ("..:f", "", "write module:name, such as mine:f"),
        ("mine:", "", "write module:name, such as mine:f"),
    ],
)
def test_remedy_is_to_put_a_module_somewhere_only_where_there_is_none(folder, name, content, remedy):
    (folder / "mine.py").write_text(content)
    with pytest.raises(InputError) as caught:
        imported("function", name)
    assert str(caught.value).startswith(f"function: '{name}' ")
    assert str(caught.value).endswith("; " + remedy.format(folder=folder))


def test_module_that_puts_another_object_in_its_place_is_known_by_its_file(folder, monkeypatch):
    text = "import sys\nclass Made:\n    f = staticmethod(lambda X, Y: X @ Y.T)\nsys.modules[__name__] = Made()\n"
    (folder / "mine.py").write_text(text)
    imported("function", "mine:f")
    with pytest.raises(CodeError, match=r"mine was imported before .*mine.py was changed, or just after: restart"):
        code_digest("mine:f")  # what was imported is not kept
    monkeypatch.setattr("pipeline.own_modules._SLACK_SECONDS", float("inf"))
    assert len(code_digest("mine:f")) == 64


@pytest.mark.parametrize(("name", "whose"), [("storage", "a package of epsweep"), ("numpy", "the installed package")])
def test_name_of_another_module_is_no_place_for_a_function_of_ones_own(name, whose):
    with pytest.raises(InputError, match=f"{whose}, ?{name}|{whose} {name}") as caught:
        imported("function", f"{name}:no_such_function")
    assert "another name" in str(caught.value)
    assert "put " not in str(caught.value)


@pytest.mark.parametrize("helper", ["queue", "storage", "numpy"])
def test_helper_that_is_hidden_is_named_unless_what_is_taken_of_it_is_elsewhere(folder, helper):
    (folder / f"{helper}.py").write_text("HELP = 1\n")
    (folder / "mine.py").write_text(f"import {helper}\ndef f(X, Y):\n    return X @ Y.T\n")
    imported("function", "mine:f")
    with pytest.raises(InputError, match=rf"mine imports {helper}: .*{helper}.py is hidden by .*; rename the file"):
        code_digest("mine:f")


def test_own_experiment_beside_a_file_with_the_name_of_a_package_of_ours_takes_ours(folder):
    (folder / "pipeline.py").write_text("raise SystemExit\n")
    (folder / "mine.py").write_text("from pipeline.experiments.generated import RANK\ndef f(X, Y):\n    return X\n")
    imported("function", "mine:f")
    assert len(code_digest("mine:f")) == 64


def test_text_that_cannot_be_parsed_is_known_by_its_bytes():
    assert read_source(b"print 'old'").digest != read_source(b"print 'older'").digest


def test_deep_expressions_and_all_constants_have_a_digest():
    deep = read_source(("x = " + "+".join(["1"] * 3000)).encode())
    assert len(deep.digest) == 64
    texts = ["1", "1.0", "True", "'1'", "b'1'", "1j", "None", "...", "'\\ud800'", "10**400", f"{10**5000:#x}"]
    assert len({read_source(f"x = {each}".encode()).digest for each in texts}) == len(texts)
    assert read_source(b"x = f'a{b}' 'c' 'd'").digest == read_source(b"x = f'a{b}cd'").digest
