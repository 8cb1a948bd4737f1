from metriclt_jax.progress import track


def test_a_bar_shows_in_a_terminal_only(capfd, monkeypatch):
    for name in ('FORCE_COLOR', 'TTY_COMPATIBLE'):
        monkeypatch.delenv(name, raising=False)
    assert list(track(iter('abc'), 'Checking images', total=3)) == [*'abc']
    assert capfd.readouterr() == ('', '')
    monkeypatch.setenv('FORCE_COLOR', '1')  # rich takes it for a terminal
    assert list(track(iter('abc'), 'Checking images', total=3)) == [*'abc']
    assert 'Checking images' in capfd.readouterr().err
