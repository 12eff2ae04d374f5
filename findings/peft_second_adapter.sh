#!/usr/bin/env bash
# peft 0.21.2: a second LoRA that is put into a model switches the first one off.
#
# One would bet: `inject_adapter_in_model` with a second name adds to what is there, as `PeftModel.add_adapter` does.
# What happens: the new one is made the only active one, in all layers, also in those that it has no factors for: there
#   the first one's change is gone and nothing stands in its place. The warning says that there are now several.
#   `PeftModel.add_adapter` leaves the first one on and the second one off.
# For users: a trained LoRA stops working as another one is added to train; call `set_adapter` of the layers after it.
# Here: `core2d/adapters/lora.py` (`attach`) notes which were on and switches them on again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.13.0
"$folder/venv/bin/pip" install -qq peft==0.21.2 transformers==5.24.0 accelerate==1.15.0
cd "$folder"
venv/bin/python -I - <<'PYTHON' 2>warnings.txt || { cat warnings.txt >&2; exit 1; }
from collections import OrderedDict

import peft, torch

def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(OrderedDict(early=torch.nn.Linear(4, 4), late=torch.nn.Linear(4, 4)))

def layers(name, **settings):  # with factors that change something at once, unless they are told to begin at zero
    return peft.LoraConfig(r=2, target_modules=[name], **settings)

print(f"peft {peft.__version__}; the first LoRA is on the layer `early`, the second, which begins at zero, on `late`")
picture, plain, added = torch.ones(1, 4), network(), network()
peft.inject_adapter_in_model(layers("early", init_lora_weights=False), added, "first")
with_first = added(picture)
peft.inject_adapter_in_model(layers("late"), added, "second")
print(f"inject_adapter_in_model: on the layer `early`, {added.early.active_adapters} is on; "
      f"the first counts: {torch.allclose(added(picture), with_first)}")
assert not torch.allclose(with_first, plain(picture))
assert added.early.active_adapters == ["second"] and "second" not in added.early.lora_A, "it behaves otherwise now"
assert torch.allclose(added(picture), plain(picture)), "it behaves otherwise now"

model = peft.get_peft_model(network(), layers("early", init_lora_weights=False), "first")
with_first = model(picture)
model.add_adapter("second", layers("late"))
early = model.base_model.model.early
print(f"PeftModel.add_adapter: on the layer `early`, {early.active_adapters} is on; "
      f"the first counts: {torch.allclose(model(picture), with_first)}")
assert early.active_adapters == ["first"] and torch.allclose(model(picture), with_first), "it behaves otherwise now"
PYTHON
