"""An extension of Google's Model Explorer that opens Core ML models.

``model-explorer --extensions=milpasses_tools.model_explorer model.mlpackage`` imports ``main`` from here,
which needs the package ai-edge-model-explorer (``milpasses[model-explorer]``); nothing else does.
"""
