"""export.py, where there is nothing to export."""

from commands import assert_refused, call


def test_a_file_in_no_folder_is_refused_before_the_run_is_read(tmp_path):
    flags = f'--workdir={tmp_path}/run', f'--output={tmp_path}/no/model.stablehlo'
    assert_refused(call('export', *flags), '--output', 'exist')
    flags = f'--workdir={tmp_path}/run', f'--output={tmp_path}/model.stablehlo'
    assert_refused(call('export', *flags), f'{tmp_path}/run')
