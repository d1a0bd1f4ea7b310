"""Rows of plugins stand in the tables beside the built-in ones, and one that does not fit is refused in one line."""

import os
import subprocess
import sys

import pytest

from sparsepo.methods import plugins
from sparsepo.methods.method import MASKS
from sparsepo.methods.parameters import PARAMETERS
from sparsepo.methods.plugins import load_plugins, registered_files
from sparsepo.methods.registry import METHODS, check_parameters
from sparsepo.objective.mask_builder import build_masks
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.code_version import ROOT

TABLES = (MASKS, METHODS, PARAMETERS, plugins._sources, plugins._mask_defaults)

HEADS = """
from sparsepo.objective.masks import MaskHead

class Head(MaskHead):
    def __init__(self, power=1.0, *, slope):
        super().__init__()

class Entropy(MaskHead):
    reads = "entropy"

def loss(chosen, rejected, *, beta, tau):
    pass

def one_side(chosen, *, beta):
    pass

class Plain:
    pass

class Nothing(MaskHead):
    pass

def reads_kl(chosen, rejected, *, beta):
    from sparsepo import PairLoss
    return PairLoss(*[(chosen.reverse_kl - rejected.logps).sum(-1)] * 3)
"""
IMPORT = "from heads_of_test import *\n"
IMPORTS = "from sparsepo import Parameter, number, register_mask, register_method\nfrom typing import Literal\n"
SLOPE = '{"slope": Parameter(float, "Slope.", 1.0)}'
TAU = '{"beta": 0.1, "tau": Parameter(number(gt=0), "Temperature.", 1.0)}'


@pytest.fixture
def register(tmp_path, monkeypatch):
    """(code of a plugin) -> it is loaded; the tables are restored after the test."""
    before = [dict(table) for table in TABLES]
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "heads_of_test.py").write_text(HEADS)

    def load(code, name="plugin"):
        path = tmp_path / f"{name}_{abs(hash(code))}.py"
        path.write_text(IMPORTS + code)
        load_plugins([str(path)])
        return path

    yield load
    for table, rows in zip(TABLES, before, strict=True):
        table.clear()
        table.update(rows)


def test_a_mask_is_an_option_of_every_method_with_weights_and_has_its_parameters(register):
    path = register(f'register_mask("mine", "heads_of_test.py:Head", reads="nothing", parameters={SLOPE})')
    having = {name for name, row in METHODS.items() if "mine" in row.mask_choices}
    assert {"dpo", "simpo", "inpo", "sparsepo_common"} <= having and not having & {"rho", "sepo", "mapo", "tis_dpo"}
    assert check_parameters("dpo", {"mask": "mine", "slope": 2.0}).resolve({"mask": "mine"})["slope"] == 1.0
    with pytest.raises(UserError, match="'slope' of 'dpo' is not read where mask is 'none', but with mine"):
        check_parameters("dpo", {"slope": 2.0})
    with pytest.raises(UserError, match="parameter 'slope' of 'dpo' must be a valid number"):
        check_parameters("dpo", {"mask": "mine", "slope": "steep"})
    assert registered_files("mask", "mine") == (path, path.parent / "heads_of_test.py")
    assert METHODS["dpo"].required_reference_outputs({"mask": "mine"}, False) == ("logps",)


def test_a_mask_that_reads_the_entropy_needs_the_states_of_the_reference(register):
    register('register_mask("mine", "heads_of_test.py:Entropy", reads="entropy")')
    assert METHODS["simpo"].required_reference_outputs({"mask": "mine"}, False) == ("states",)
    with pytest.raises(UserError, match="mask 'mine' reads 'nothing' by its row"):
        MASKS["mine"] = MASKS["mine"].__class__(MASKS["mine"].head)
        build_masks(1, 4, mask="mine", share="reward_only")


def test_a_plugin_without_torch_registers_by_name_and_a_plan_loads_no_torch(tmp_path):
    (tmp_path / "heads_of_test.py").write_text("import torch\n" + HEADS)
    (tmp_path / "light.py").write_text(
        f'{IMPORTS}register_mask("mine", "heads_of_test.py:Head", reads="nothing", parameters={SLOPE})\n'
        f'register_method("own", "heads_of_test.py:loss", hyper={TAU})\n'
    )
    code = (
        "import sys\nfrom sparsepo.methods.plugins import load_plugins_of_job\nload_plugins_of_job()\n"
        "from sparsepo.methods.registry import METHODS\nassert 'torch' not in sys.modules\n"
        "print(METHODS['own'].mask_choices[-1], METHODS['own'].loss, METHODS['own'].parameters['tau'])"
    )
    own = {"PYTHONPATH": str(ROOT / "src"), "SPARSEPO_PLUGINS": "light.py"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True)
    assert done.stdout.split() == ["mine", "heads_of_test.py:loss", "1.0"], done.stderr


def test_loss_and_mask_do_not_care_which_is_registered_first(register):
    register(
        f'register_method("own", "heads_of_test.py:loss", hyper={TAU}, token_weights="mean")\n'
        f'register_mask("mine", "heads_of_test.py:Head", reads="nothing", parameters={SLOPE})'
    )
    assert METHODS["own"].mask_choices[-1] == "mine" and METHODS["own"].masks["slope"] == 1.0
    assert METHODS["own"].averages({}) and METHODS["own"].effective_beta({}, 0.5) is None


METHOD = 'register_method("own", "heads_of_test.py:{loss}", hyper={hyper}{more})'
MASK = 'register_mask("{name}", "heads_of_test.py:{head}", reads="nothing", parameters={parameters})'
REFUSED = {
    "a built-in mask": (
        MASK.format(name="uniform", head="Head", parameters=SLOPE),
        "the mask 'uniform' is built in and cannot be replaced: give yours another name",
    ),
    "a built-in method": (
        METHOD.format(loss="loss", hyper=TAU, more="").replace('"own"', '"dpo"'),
        "the method 'dpo' is built in and cannot be replaced",
    ),
    "a name for no path": (
        MASK.format(name="My mask", head="Head", parameters=SLOPE),
        "a mask is named by small letters, digits and '_', not 'My mask'",
    ),
    "no such class": (
        MASK.format(name="mine", head="Hed", parameters=SLOPE),
        "heads_of_test.py has no function 'Hed'",
    ),
    "no such keyword": (
        MASK.format(name="mine", head="Head", parameters=SLOPE.replace('"slope"', '"slop"')),
        "mask 'mine': .*:Head has no keyword 'slop'",
    ),
    "a keyword left out": (
        MASK.format(name="mine", head="Head", parameters="{}"),
        "mask 'mine': .*:Head needs 'slope', which is not among its parameters",
    ),
    "a new name without type": (
        METHOD.format(loss="loss", hyper='{"beta": 0.1, "tau": 1.0}', more=""),
        "parameter 'tau' of method 'own' is new: give Parameter",
    ),
    "a type for no path": (
        METHOD.format(loss="loss", hyper=TAU.replace("number(gt=0)", "list"), more=""),
        "parameter 'tau' is a number",
    ),
    "no default": (
        METHOD.format(loss="loss", hyper=TAU.replace(", 1.0", ""), more=""),
        "parameter 'tau' needs a default",
    ),
    "a keyword of a loss left out": (
        METHOD.format(loss="loss", hyper='{"beta": 0.1}', more=""),
        "method 'own': hyper has beta, and .*:loss the keywords beta, tau",
    ),
    "a loss of one side": (
        METHOD.format(loss="one_side", hyper='{"beta": 0.1}', more=""),
        "must be loss",
    ),
    "unknown weights": (
        METHOD.format(loss="loss", hyper=TAU, more=', token_weights="tokens"'),
        "token_weights is one of reward, mean, both",
    ),
    "a default below its limit": (
        MASK.format(name="mine", head="Head", parameters=SLOPE.replace("float", "number(gt=2)")),
        "the default of parameter 'slope' of mask 'mine' must be greater than 2, not 1.0",
    ),
    "a text for a number": (
        METHOD.format(loss="loss", hyper=TAU.replace("0.1", "'small'"), more=""),
        "the default of parameter 'beta' of method 'own' must be a valid number",
    ),
    "a class that is no mask": (
        IMPORT + 'register_mask("mine", Plain)',
        "mask 'mine': .*:Plain must be a subclass of sparsepo.MaskHead",
    ),
    "parameters that no method takes": (
        MASK.format(name="mine", head="Nothing", parameters=SLOPE),
        "mask 'mine': .*:Nothing needs an __init__ that takes 'slope'",
    ),
    "a KL that is not asked for": (
        IMPORT + 'register_method("own", reads_kl, hyper={"beta": 0.1})',
        "method 'own': the loss reads what is not given: register it with kl='reverse'",
    ),
    "a parameter of another meaning": (
        MASK.format(name="mine", head="Head", parameters=SLOPE)
        + "\n"
        + MASK.format(name="other", head="Head", parameters=SLOPE.replace("1.0", "2.0")),
        "has a parameter 'slope' of another meaning or default",
    ),
}


@pytest.mark.parametrize(("code", "message"), REFUSED.values(), ids=REFUSED)
def test_a_row_that_does_not_fit_is_refused(register, code, message):
    before = dict(METHODS)
    with pytest.raises(UserError, match=message) as caught:
        register(code)
    assert "\n" not in str(caught.value)
    assert {name: METHODS[name].loss for name in METHODS} == {name: row.loss for name, row in before.items()}


def test_a_name_of_another_plugin_is_refused(register):
    code = MASK.format(name="mine", head="Head", parameters=SLOPE)
    first = register(code)
    with pytest.raises(
        UserError, match=f"the parameter 'slope' is also registered by {first}|'mine' is also registered"
    ):
        register(code + "\n# another file")


def test_an_installed_package_offers_a_plugin_by_its_entry_point(tmp_path):
    (tmp_path / "own_package.py").write_text(f'{IMPORTS}register_method("own", "own_losses.py:loss", hyper={TAU})\n')
    (tmp_path / "own_losses.py").write_text(HEADS)
    info = tmp_path / "own_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sparsepo.plugins]\nown = own_package\n")
    code = "from sparsepo.methods.plugins import *\nload_plugins([])\nprint(METHODS['own'].hyper)"
    own = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(tmp_path)])}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | own, capture_output=True, text=True)
    assert done.stdout.strip() == "{'beta': 0.1, 'tau': 1.0}", done.stderr


def test_built_in_rows_say_what_their_classes_read():
    from sparsepo.runtime.user_code import load_object

    assert all(load_object(row.head).reads == row.reads for row in MASKS.values())
