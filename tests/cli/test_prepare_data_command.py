import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'prepare_data.py'


def command(*arguments):
    return subprocess.run(
        [sys.executable, '-W', 'error', str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_prepares_and_says_where(tmp_path):
    result = command('--dataset=digits_lt', f'--data_dir={tmp_path}')
    folder = tmp_path / 'digits_lt' / '1.0.0'
    assert (result.returncode, result.stderr) == (0, '')
    assert result.stdout == f'digits_lt is prepared in {folder}\n'
    assert (folder / 'dataset_info.json').exists()


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    result = command('--dataset=skin7', f'--source={tmp_path}', f'--data_dir={tmp_path}/data')
    assert result.returncode == 2
    assert result.stdout == ''
    assert result.stderr.startswith(f'error: there is no folder {tmp_path}/ISIC2018')
    assert result.stderr.count('\n') == 1
    result = command('--dataset=skin8')
    assert result.returncode == 2
    assert result.stderr.startswith('error: ')
    assert 'digits_lt|skin7' in result.stderr
