"""Records a checkpoint of torch's linear layers: its `state_dict`, and what it computes.

usage: record_linear.py tests/fixtures

`linear_checkpoint/model.safetensors` is the state dict as safetensors writes it, `model.pt` the same as `torch.save` does,
`training.pth` a checkpoint in the middle of a training with the state dict and the optimizer's in it, and `outputs.safetensors` an
input and its output.
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(24)
        self.up = nn.Linear(24, 40)
        self.down = nn.Linear(40, 16, bias=False)

    def forward(self, x):
        return self.down(torch.relu(self.up(self.norm(x))))


def main():
    folder = pathlib.Path(sys.argv[1]) / "linear_checkpoint"
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    net = Net()
    nn.init.normal_(net.norm.weight, 1.0, 0.1)
    nn.init.normal_(net.norm.bias, 0.0, 0.1)
    x = torch.randn(12, 24)
    save_file(net.state_dict(), folder / "model.safetensors")
    torch.save(net.state_dict(), folder / "model.pt")
    with torch.no_grad():
        save_file({"input": x, "output": net(x)}, folder / "outputs.safetensors")
    # Gradients of zero: the optimizer has a state, and the weights stay as they are.
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    (0.0 * net(x)).sum().backward()
    optimizer.step()
    state = {"epoch": 1, "model_state_dict": net.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save(state, folder / "training.pth")


main()
