"""How metrics are shown: titles, units, directions, digits."""

from __future__ import annotations

import dataclasses

TRAIN_DISTANCE = 'train_distance_'  # then the name of the features


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a metric is shown; better is 'higher', 'lower' or '' where neither is."""

    title: str
    unit: str = ''
    better: str = ''
    digits: int = 3


_SHOWN = {
    'psnr_hole/mean': Metric('hole PSNR', 'dB', 'higher', 2),
    'psnr_hole/best': Metric('hole PSNR, best of N', 'dB', 'higher', 2),
    'ssim_hole/mean': Metric('hole SSIM', '', 'higher'),
    'ssim_hole/best': Metric('hole SSIM, best of N', '', 'higher'),
    'l1_hole/mean': Metric('hole L1', 'grey levels', 'lower', 2),
    'l1_hole/best': Metric('hole L1, best of N', 'grey levels', 'lower', 2),
    'psnr/mean': Metric('PSNR', 'dB', 'higher', 2),
    'psnr/best': Metric('PSNR, best of N', 'dB', 'higher', 2),
    'ssim/mean': Metric('SSIM', '', 'higher'),
    'ssim/best': Metric('SSIM, best of N', '', 'higher'),
    'l1/mean': Metric('L1', 'grey levels', 'lower', 2),
    'l1/best': Metric('L1, best of N', 'grey levels', 'lower', 2),
    'pair_distance': Metric('pair distance', 'of [-1,1]', '', 4),
    'pair_distance_hole': Metric('pair distance in the hole', 'of [-1,1]', ''),
    'pair_distance_hole_passed': Metric('pair distance of those that pass', 'of [-1,1]'),
    'identity_gt/mean': Metric('identity, cosine to the truth', '', 'higher'),
    'identity_gt/best': Metric('identity, best of N', '', 'higher'),
    'identity_gt_distance': Metric('identity, distance to the truth', '', 'lower'),
    'identity_div': Metric('identity, 1 - cosine between samples'),
    'identity_passed': Metric('pass the face gate', 'share', 'higher'),
    'landmark_passed': Metric('pass the landmark gate', 'share', 'higher'),
    'passed': Metric('pass all gates', 'share', 'higher'),
    'landmark_error/mean': Metric('landmark error', 'of the eyes', 'lower', 4),
    'landmark_error/best': Metric('landmark error, best of N', 'of the eyes', 'lower', 4),
    'landmark_error_hole/mean': Metric('hole landmark error', 'of the eyes', 'lower', 4),
    'landmark_error_hole/best': Metric('hole landmark error, best of N', 'of the eyes', 'lower', 4),
    'landmark_spread': Metric('landmark spread', 'of the eyes', '', 4),
    'landmark_spread_hole': Metric('landmark spread in the hole', 'of the eyes', '', 4),
    'seam': Metric('seam', 'grey levels', '', 2),
    'ms_ssim/mean': Metric('MS-SSIM', '', 'higher'),
    'ms_ssim/best': Metric('MS-SSIM, best of N', '', 'higher'),
}


_NETWORKS = {'lpips': 'LPIPS', 'stlpips': 'ST-LPIPS'}
_HIGHER = (
    'precision',
    'recall',
    'density',
    'coverage',
    'P-IDS',
    'U-IDS',
    'ssim',
    'psnr',
    'identity',
)
_LOWER = ('FID', 'KID', 'FD-', 'KD-', 'seam', 'landmark')


def shown(name: str) -> Metric:
    """The title, unit and direction of a metric; of one unknown here, what its name tells."""
    if name in _SHOWN:
        return _SHOWN[name]
    head, _, over = name.partition('/')
    family, _, rest = head.partition('_')
    best = ', best of N' if over == 'best' else ''
    if family in _NETWORKS:
        # Distance to the truth and distance between samples never share a column.
        trunk, _, what = rest.partition('_')
        to = 'to the truth' if what.startswith('gt') else 'between samples'
        where = 'hole ' if what.endswith('_hole') else ''
        title = f'{where}{_NETWORKS[family]} {trunk}, {to}{best}'
        return Metric(title, '', 'lower' if what.startswith('gt') else '')
    if head.startswith(TRAIN_DISTANCE):
        net = head.removeprefix(TRAIN_DISTANCE).replace('_', ' ')
        of = ', of the photo' if over == 'photo' else ''
        return Metric(f'nearest training face, {net}{of}', '', '', 2 if 'pixels' in net else 3)
    title = head.replace('_', ' ') + best
    better = 'higher' if any(word in head for word in _HIGHER) else ''
    better = 'lower' if any(word in head for word in _LOWER) else better
    digits = 2 if head.startswith(('FID', 'clean-FID', 'FD-')) else 3
    return Metric(title, '', better, 4 if head.startswith(('KID', 'clean-KID', 'KD-')) else digits)
