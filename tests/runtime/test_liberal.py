"""What connection tracking is told while segments are changed."""

import errno
import os
from pathlib import Path
from typing import cast

from tcpcrypt.runtime.liberal import LiberalTracking


def test_it_is_set_and_put_back(tmp_path: Path) -> None:
    setting = tmp_path / "be_liberal"
    setting.write_text("0\n")
    tracking = LiberalTracking(setting)
    assert not tracking.missing()  # nobody wants it
    for _ in range(2):
        tracking.install()
        assert setting.read_text().strip() == "1"
        assert not tracking.missing()
    tracking.remove()
    assert (setting.read_text(), tracking.missing()) == ("0\n", False)


def test_tracking_that_comes_later_or_is_changed_is_found_and_told(tmp_path: Path) -> None:
    setting = tmp_path / "be_liberal"
    tracking = LiberalTracking(setting)
    tracking.install()
    assert not tracking.missing()  # there is none
    setting.write_text("0\n")  # modprobe nf_conntrack
    assert tracking.missing()
    tracking.install()
    assert not tracking.missing()
    setting.write_text("0\n")  # an administrator
    assert tracking.missing()
    tracking.install()
    tracking.remove()
    assert setting.read_text() == "0\n"


class ReadOnly:
    """A setting as it is in a container: there to be read."""

    def read_text(self) -> str:
        return "0\n"

    def write_text(self, _text: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_what_may_not_be_set_is_not_missing() -> None:
    """Or all rules would be put in again every time somebody looks."""
    tracking = LiberalTracking(cast(Path, ReadOnly()))
    tracking.install()
    assert not tracking.missing()
    tracking.remove()
