"""How the bundled Toybox models are made: one module a model, each with its architecture, recipe, score and card."""
