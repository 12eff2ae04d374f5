"""DreamBooth (2208.12242): a subject learned from a few pictures, by the whole prior or by a LoRA of it."""
