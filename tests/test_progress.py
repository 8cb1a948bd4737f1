import os
import select
import sys

from metriclt_jax.progress import track


def test_a_bar_shows_in_a_terminal(monkeypatch):
    for name in ('FORCE_COLOR', 'NO_COLOR', 'TTY_COMPATIBLE', 'TTY_INTERACTIVE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', '80')
    reader, writer = os.openpty()
    with os.fdopen(writer, 'w') as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, 'stderr', terminal)
        assert list(track(iter('abc'), 'Checking images', total=4)) == [*'abc']
        shown = b''
        while b' 75%' not in shown and select.select([reader], [], [], 5)[0]:
            shown += os.read(reader, 2**16)
    os.close(reader)
    assert b'Checking images' in shown
    assert b' 75%' in shown


def test_nothing_shows_elsewhere(capfd):
    assert list(track(iter('abc'), 'Checking images', total=3)) == [*'abc']
    assert capfd.readouterr() == ('', '')
