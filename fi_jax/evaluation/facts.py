# ruff: noqa: RUF001  (set with true dashes, minus signs and multiplication signs)
"""What a report says of its protocol, in words: how it was measured, and with what."""

from __future__ import annotations

from fi_jax.evaluation.results import Results


def protocol(results: Results) -> dict[str, str]:
    """The protocol, fact by fact."""
    p = results.protocol
    height, width = p['size']
    facts = {
        'Images': f'{p["num_images"]:,} of {p["data"]}'
        + (f', split {p["split"]}' if p.get('split') else ''),
        'Size': f'{width}×{height} px, the centred square of each image',
        'Holes': f'{p["holes"]}, drawn once from (seed {p["seed"]}, index of the image)'
        if 'seed' in p
        else p['holes'],
        'Hash of the holes': f'sha256 {p["holes_sha256"]}',
        'Samples': f'{p["num_samples"]} of each image; best of N by each metric itself',
        'Composite': 'the sample inside the hole, the photo outside, rounded to 8 bits: every '
        'metric sees that image',
        'PSNR': 'in dB, data range 255, over the frame or over the hole alone; the mean over '
        'samples of their PSNR, then over images',
        'SSIM': 'Gaussian window of 11 pixels, sigma 1.5, data range 255, mean of RGB; in the '
        'hole the mean of its map',
        'Pair distance': 'mean L1 over all pairs of samples of one input, images in [−1,1]; never '
        'a distance to the truth',
        'Intervals': f'95 % percentile bootstrap over images, {p["bootstrap"]:,} resamples, the '
        'same for all rows and metrics',
        'Rows': 'mean face of the training images; Telea and Navier–Stokes of OpenCV, radius 3; '
        'biharmonic; the same network with z = 0; the real image',
    }
    if p.get('landmark_detector'):
        reference = {
            'data': 'against the points that came with the photos',
            'landmark_detector': 'against the points it finds in the photos themselves, for none '
            'came with them: the real image has 0',
        }[p['landmarks']]
        facts['Landmarks'] = (
            f'found on each completion by {detector(results)}, which does not see the hole; '
            f'{reference}, over the distance of the outer eye corners; hole: points whose true '
            'place is in it'
        )
    facts['Gates'] = 'none in force: no landmark detector, no face descriptors'
    if p.get('gates'):
        facts['Gates'] = f'in force: {gates(results)}'
    if p.get('memorisation'):
        about = p['memorisation']
        facts['Nearest training face'] = (
            f'of {about["faces"]:,} training faces of {about["data"]}, not flipped; '
            f'{about["features"].replace("_", " ")} features of the first composite of each image'
        )
    if not p.get('split'):
        facts['Size'] = f'{width}×{height} px, as stored'
        facts['Rows'] = facts['Rows'].replace('the training images', 'the originals')
    if p.get('compared'):
        facts['Compared'] = ', '.join(p['compared'])
        facts['Images'] += '; only those that all have, with the same hole and original'
    change = p.get('mean_change_of_visible_pixels_before_pasting')
    if change is not None:
        facts['Visible pixels'] = (
            f'differed from the originals by {change:.2f} grey levels on average before pasting'
        )
    return facts


def detector(results: Results) -> str:
    """The landmark detector of an evaluation."""
    about = results.protocol['landmark_detector']
    return (
        f'the landmark predictor of run {about["run"]} ({about["res"]} px, step {about["step"]:,})'
    )


def gates(results: Results) -> str:
    """What a sample must keep to pass."""
    words = {
        'landmarks': 'a landmark error of the whole face of at most {} of the eyes',
        'identity': 'a distance of dlib’s face descriptors to the photo of at most {}',
    }
    found = results.protocol['gates'].items()
    return ' and '.join(words[name].format(f'{most:g}') for name, most in found)
