"""The other side of the comparison: torchvision's models in PyTorch, in a process of their own.

Run by path with an interpreter that has torch and torchvision; needs nothing else, JAX least of
all. Reads a request a line from standard input and answers each with a line on standard output,
both JSON:

    {"do": "build", "name": ..., "what": ..., "model": ..., ...}   -> {"warm_up_seconds": ...}
    {"do": "steps", "name": ..., "count": k}                       -> {"seconds": ...} (of one step)
    {"do": "clear"}                                                -> {}

Between requests it waits and computes nothing. A failure is answered with {"error": ...}.
"""

import json
import os
import sys
import time


def main(do: dict) -> None:
    """Says what is installed, then answers requests by `do` until standard input ends."""
    # What other code prints must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(respond, *arguments):
        try:
            message = respond(*arguments)
        except Exception as error:
            message = {'error': f'{type(error).__name__}: {" ".join(str(error).split())}'}
        print(json.dumps(message), file=answers, flush=True)

    programs = {}
    answer(about)
    for line in sys.stdin:
        request = json.loads(line)
        answer(do[request.pop('do')], programs, request)


def about() -> dict:
    """Versions and devices."""
    torchvision = import_torchvision()
    import torch

    cuda = torch.cuda.is_available()
    return {
        'python': sys.version.split()[0],
        'torch': torch.__version__,
        'torchvision': torchvision.__version__,
        'threads': torch.get_num_threads(),
        'devices': ['cpu', 'cuda'] if cuda else ['cpu'],
        'gpu': torch.cuda.get_device_name() if cuda else None,
    }


def import_torchvision():
    """Imports torchvision, even beside a torch that its compiled part was not built for.

    Its Python part registers things for two operators that then do not exist; the models do not
    need them, so they are declared.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if 'operator torchvision::' not in str(error):
            raise
        for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
            del sys.modules[name]
        library = torch.library.Library('torchvision', 'FRAGMENT')
        for operator in ('nms', 'qnms'):
            library.define(f'{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        import torchvision

        torchvision._declared = library  # the declarations go when the library does
    return torchvision


def build(programs: dict, request: dict) -> dict:
    """Makes a program and runs it twice, which compiles it where that is asked for."""
    name = request.pop('name')
    run = make_program(**request)
    started = time.perf_counter()
    run(2)
    programs[name] = run
    return {'warm_up_seconds': time.perf_counter() - started}


def steps(programs: dict, request: dict) -> dict:
    """Seconds of one of `count` steps in a row."""
    return {'seconds': programs[request['name']](request['count'])}


def clear(programs: dict, request: dict) -> dict:
    """Forgets all programs and gives their memory back."""
    import gc

    import torch

    programs.clear()
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {}


DO = {'build': build, 'steps': steps, 'clear': clear}


def make_program(
    what: str,
    model: str,
    size: int,
    dtype: str,
    batch: int,
    num_classes: int,
    device: str,
    channels_last: bool = False,
    compiled: str | None = None,
):
    """A function that runs k steps and returns the seconds of one.

    Args:
        what: 'train' (forward, cross-entropy, backward, SGD with momentum and weight decay) or
            'forward' (logits in evaluation mode).
        dtype: 'float32' (which on a GPU may use TF32, as in JAX), or another for autocast.
        channels_last: memory format of images and weights.
        compiled: a mode of `torch.compile`, or None.
    """
    torchvision = import_torchvision()
    import torch

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision('high')
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    net = getattr(torchvision.models, model)(num_classes=num_classes)
    net = net.to(device, memory_format=memory_format).train(what == 'train')
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=memory_format)
    labels = torch.randint(0, num_classes, (batch,), device=device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    call = torch.compile(net, mode=compiled) if compiled else net

    def autocast():
        enabled = dtype != 'float32'
        return torch.autocast(device, getattr(torch, dtype) if enabled else None, enabled=enabled)

    def train():
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss = torch.nn.functional.cross_entropy(call(images), labels)
        loss.backward()
        optimizer.step()

    def forward():
        with torch.inference_mode(), autocast():
            call(images)

    step = {'train': train, 'forward': forward}[what]

    def synchronize():
        if device == 'cuda':
            torch.cuda.synchronize()

    def run(count):
        synchronize()
        started = time.perf_counter()
        for _ in range(count):
            step()
        synchronize()
        return (time.perf_counter() - started) / count

    return run


if __name__ == '__main__':
    main(DO)
