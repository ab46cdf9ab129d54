import subprocess
import sys

import pytest

from medseg.cli import main
from medseg.data.datalist import Datalist
from medseg.resources import data_scripts_root


def test_lists_every_script(capsys):
    assert main(["data"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == sorted(path.stem for path in data_scripts_root().glob("*.py"))
    assert all(len(line.split()) > 3 for line in said)


def test_runs_a_script(tmp_path, capsys):
    arguments = ["--output", str(tmp_path), "--sections", "5", "--size", "64", "--crop-size", "32"]
    program = sys.argv[0]
    assert main(["data", "synthetic", *arguments]) == 0
    assert len(Datalist.load(tmp_path / "datalist.json").training) == 20
    assert "20 crops" in capsys.readouterr().out
    assert sys.argv[0] == program


def test_the_script_explains_itself(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["data", "voc2012", "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: medseg data voc2012 [-h]")
    assert "--source" in said


def test_a_script_s_status_is_the_program_s(tmp_path, capsys):
    assert main(["data", "isic2018", "--source", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 1
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "hint"), [("synthetics", "did you mean synthetic?"), ("qqq", "choose from ade20k, ")])
def test_unknown(name, hint, capsys):
    assert main(["data", name]) == 2
    assert capsys.readouterr().err.startswith(f"medseg: error: there is no data script '{name}'; {hint}")


def test_listing_imports_no_script():
    code = "import sys\nfrom medseg.cli import main\nmain(['data'])\n"
    code += "sys.stderr.write(' '.join({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "PIL", "rich"} & set(done.stderr.split())
