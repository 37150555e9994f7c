"""A size to meet.

Three bits for each element, spent where they matter: a scheme for each weight, chosen by what its error
does to the outputs. Compared with the single scheme of that size.
"""

import tempfile
from pathlib import Path

from _networks import digits_data, digits_model
from milpasses_tools import compare

import milpasses as mp
from milpasses.budget import fit

with tempfile.TemporaryDirectory() as folder:
    model = digits_model(Path(folder))
    data = digits_data(0, 64)
    fitted = fit(model, "4 bits", data=data)
    print(fitted)
    assert fitted.asked is not None
    assert fitted.used <= fitted.asked

    fresh = digits_data(200, 280)
    single = mp.compress(model, "pal3")
    mixed = mp.compress(model, fitted.recipe, output=Path(folder) / "mixed.mlpackage")
    for name, small in {"pal3": single, "fitted": mixed}.items():
        snr = compare(model, small, fresh)["scores"].snr_db
        print(f"{name:8} {small.report.bytes_after:,} bytes, outputs {snr:.1f} dB")
