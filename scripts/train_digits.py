"""Train the embedded default: a small iLLaMA for scikit-learn's handwritten digits.

    python scripts/train_digits.py illama_deploy/assets/digits.safetensors

About three minutes on two cores. It is deterministic: the same machine gives the same bytes. The accuracy on
the held-out half is printed at the end.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.scheduler import CosineLRScheduler
from torchvision.transforms.v2 import RandomAffine

from illama_deploy.checkpoint import save_checkpoint
from illama_deploy.data import Loader, open_data
from illama_deploy.model import Illama, IllamaConfig
from illama_deploy.preprocessing import Preprocessing

CONFIG = IllamaConfig(dim=128, depth=2, heads=2, image_size=(32, 32), patch_size=4, channels=1, classes=10)
PREPROCESSING = Preprocessing(size=(32, 32), mean=(0.3,), std=(0.3,))
EPOCHS, WARMUP, BATCH, LR, WEIGHT_DECAY, SMOOTHING = 100, 5, 64, 1.5e-3, 0.05, 0.1
SOFT_MASK_EPOCHS = 30  # the mask goes linearly from bidirectional to causal


def all_images(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    loader = Loader(open_data("digits", split, role="evaluate"), PREPROCESSING, classes=CONFIG.classes)
    batches = list(loader)
    return torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])


def train() -> Illama:
    images, labels = all_images("train")
    model = Illama(CONFIG)
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and name not in model.no_weight_decay()]
    rest = [p for name, p in model.named_parameters() if p.ndim <= 1 or name in model.no_weight_decay()]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR)
    schedule = CosineLRScheduler(optimizer, t_initial=EPOCHS, lr_min=1e-6, warmup_t=WARMUP, warmup_lr_init=1e-5)
    black = -PREPROCESSING.mean[0] / PREPROCESSING.std[0]
    augment = RandomAffine(degrees=12, translate=(0.1, 0.1), scale=(0.85, 1.15), shear=8, fill=black)
    for epoch in range(EPOCHS):
        schedule.step(epoch)
        model.set_soft_mask(max(0.0, 1 - epoch / SOFT_MASK_EPOCHS))
        total = 0.0
        for batch in torch.randperm(len(images)).split(BATCH):
            x = torch.stack([augment(image) for image in images[batch]])
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), labels[batch], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {total / len(images):.4f}", flush=True)
    model.set_soft_mask(0.0)
    return model.eval()


def main() -> None:
    torch.manual_seed(0)
    model = train()
    # Half precision halves the file; what is measured below is what is shipped.
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    images, labels = all_images("test")
    with torch.inference_mode():
        correct = (model(images).argmax(1) == labels).sum().item()
    print(f"held-out top-1: {100 * correct / len(labels):.2f} % of {len(labels)}")
    out = Path(sys.argv[1])
    classes = [str(digit) for digit in range(10)]
    save_checkpoint(out, state, CONFIG, PREPROCESSING, classes=classes, data="digits", force=True)
    print(f"wrote {out} ({out.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
