"""What a person sees: plain lines in a file, a bar on a terminal."""

import io

from vitaos.outputs.progress import ProgressDisplay


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_elsewhere_with_rate_and_time_left() -> None:
    stream = io.StringIO()
    display = ProgressDisplay(100, 10, stream)
    display.log({"step": 10, "loss": 2.0, "lr": 1e-3, "images_per_s": 1234.5})
    display.log({"step": 20, "loss": 1.5, "lr": 1e-3, "images_per_s": 1234.5})
    display.metrics({"epoch": 1, "step": 20, "train_loss": 1.5, "val_top1": 50.0, "images_per_s": 1234.5})
    display.metrics({"epoch": 2, "step": 21, "train_loss": 1.5})
    first, second, last, part = stream.getvalue().splitlines()
    assert first == "epoch 2/10  step 10/100  loss 2.0000  lr 1.00e-03  1,234 images/s"
    assert second.startswith("epoch 3/10  step 20/100")
    assert "left 0:00:" in second
    assert last == "epoch 2 done  train_loss 1.5000  val_top1 50.00  1,234 images/s"
    assert part == "epoch 3 left after 1 of 10 steps  train_loss 1.5000"


def test_the_time_left_is_that_of_the_steps_not_of_the_lines() -> None:
    stream = io.StringIO()
    display = ProgressDisplay(100, 10, stream)
    for step in (1, 2):  # shown at once, taken a minute apart
        display.log({"step": step, "train_seconds": 60.0 * step})
    assert stream.getvalue().splitlines()[1].endswith("left 1:38:00")


def test_a_bar_on_a_terminal_that_is_left_clean() -> None:
    stream = Terminal()
    display = ProgressDisplay(100, 10, stream)
    display.log({"step": 10, "loss": 2.0})
    display.message("a sentence above the bar")
    display.close()
    assert "10/100 steps" in stream.getvalue()
    assert "a sentence above the bar" in stream.getvalue()
    display.close()  # a second time does nothing
