"""A real TPM: IDIOLECT_HW_TCTI=device:/dev/tpmrm0 python -m pytest -s hw-tests/test_real_tpm.py

For a board that is not provisioned: it is provisioned into a temporary folder, measured, and reset again. PCR 14 is
extended, so reboot afterwards. Prints what a discrete chip makes of the budgets, which are for swtpm.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from idiolect.config import Config, Trust
from idiolect.provisioning import factory_reset
from tests import bundles
from tests.devices import TestDevice

TCTI = os.environ.get("IDIOLECT_HW_TCTI", "")
pytestmark = pytest.mark.skipif(not TCTI, reason="set IDIOLECT_HW_TCTI to a TPM, such as device:/dev/tpmrm0")


@pytest.fixture
def board(tmp_path):
    from idiolect.host.tpm import Tpm
    from idiolect.host.tpm_keystore import MINIMUM, SLOTS

    with Tpm(TCTI) as tpm:
        print(tpm.properties())
        if any(tpm.exists(index) for index in (*SLOTS, MINIMUM)):
            pytest.skip("this board is provisioned: nothing is touched")
        if tpm.read_pcr(14) != bytes(32):
            pytest.skip("PCR 14 is not zero: reboot first, or the firmware uses it")
    made = TestDevice(tmp_path, None)
    trust = Trust(keys_dir=tmp_path / "keys.d", tcti=TCTI)
    made.config = replace(Config(), state_dir=made.state, keystore="tpm", trust=trust)
    made.tpm = TCTI
    try:
        yield made
    finally:
        factory_reset(made.config)


def timed(what, call):
    begin = time.perf_counter()
    result = call()
    print(f"{what:28} {(time.perf_counter() - begin) * 1e3:8.0f} ms")
    return result


def test_provision_measure_rotate_and_reset(board):
    timed("provision", board.provision)
    custody = board.custody(bundles.signed())
    assert timed("fresh boot to keys and vault", custody.open).released, custody.view

    def event():
        with custody.vault.change("erased", rotate=True, profile="aa", count=0):
            pass

    timed("rotation", event)
    assert not custody.vault.owed
    timed("quote", lambda: custody.attest(bytes(32)))
    custody.close()
    custody = board.custody(bundles.signed())
    assert timed("restart to keys and vault", custody.open).released, custody.view
    custody.close()
