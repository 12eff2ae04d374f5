"""What every command stands on: errors, outputs, runs, recipes, devices. No torch here until it is needed."""
