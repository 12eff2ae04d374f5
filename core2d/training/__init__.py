"""The one training loop, and the objectives that go through it."""
