"""The page in a real browser, against the real server and real, untrained networks of 32 pixels."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import fi_jax
from fi_jax.photo.finding import Face
from tests import tiny_weights
from tests.serving import PlainRestorer, ask, serving

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
CHROMIUM = os.environ.get('CHROMIUM') or shutil.which('chromium')
FLAGS = ('--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-sync')


@pytest.fixture(scope='module')
def url(tmp_path_factory):
    weights = tiny_weights.write(tmp_path_factory.mktemp('weights') / 'tiny.safetensors')
    with serving(fi_jax.load(weights)) as address:
        yield address


@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """opened(url, ...) -> a page, which must fail at nothing and ask nobody else."""
    contexts, faults = [], []

    def go(url, width=1280, height=860, **options):
        context = browser.new_context(
            viewport={'width': width, 'height': height}, accept_downloads=True, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on('pageerror', lambda error: faults.append(str(error)))
        page.on('console', lambda m: faults.append(m.text) if m.type == 'error' else None)
        page.on(
            'request', lambda r: None if r.url.startswith((url, 'blob:')) else faults.append(r.url)
        )
        page.goto(url)
        return page

    yield go
    for context in contexts:
        context.close()
    assert not faults


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    """A file of a real photo, 512 x 512, public domain."""
    path = tmp_path_factory.mktemp('photos') / 'my photo.png'
    Image.fromarray(data.astronaut()).save(path)
    return path


def drop(page, photo):
    page.set_input_files('#photo', photo)
    page.wait_for_selector('#overlay:not([hidden]) .line')


def at(page, x, y):
    """A place of the stage, given as shares of it, in pixels of the window."""
    box = page.locator('#stage').bounding_box()
    return box['x'] + x * box['width'], box['y'] + y * box['height']


def paint(page, *places):
    page.mouse.move(*at(page, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*at(page, *place), steps=5)
    page.mouse.up()


def points(page):
    dots = page.locator('.dot')
    return np.array(
        dots.evaluate_all("all => all.map(d => [+d.getAttribute('cx'), +d.getAttribute('cy')])")
    )


def downloaded(page, name):
    with page.expect_download() as download:
        page.click(name)
    with Image.open(download.value.path()) as picture:
        picture.load()
    return download.value.suggested_filename, picture


def completed(page):
    page.click('#complete')
    page.wait_for_selector('.thumb[aria-pressed=true]')


def test_from_a_photo_to_a_download_that_keeps_every_pixel_outside_the_hole(opened, url, photo):
    page = opened(url)
    drop(page, photo)
    paint(page, (0.45, 0.6), (0.55, 0.65))
    page.click('[data-tool=points]')
    before = points(page)
    stage = page.locator('#stage').bounding_box()
    x, y = before[48] + [stage['x'], stage['y']]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 30, y - 20, steps=4)
    page.mouse.up()
    away = points(page) - before
    np.testing.assert_allclose(away[48], [-30, -20], atol=1.5)
    assert 0 < np.abs(away[49]).max() < 30 and not away[:48].any()  # its neighbours, not the eyes
    page.fill('#seed', '3')
    page.locator('#count').fill('3')
    completed(page)
    assert page.locator('.thumb').count() == 3
    assert 'Your points' in page.inner_text('#gallery')
    page.click('.thumb >> nth=1')
    name, result = downloaded(page, '#save_png')
    assert name == 'my photo_completed_2.png' and result.text['fi_jax seed'] == '3'
    _, hole = downloaded(page, '#save_hole')
    missing, result = np.asarray(hole)[..., 0] > 0, np.asarray(result)
    original = np.asarray(Image.open(photo))
    assert missing.shape == original.shape[:2] and 0 < missing.mean() < 0.2
    np.testing.assert_array_equal(result[~missing], original[~missing])
    assert (result[missing] != original[missing]).any()
    name, jpeg = downloaded(page, '#save_jpeg')
    assert name.endswith('.jpg') and jpeg.size == (512, 512)


def test_buttons_paint_and_undo_brings_back(opened, url, photo):
    page = opened(url)
    drop(page, photo)

    def share():
        return (np.asarray(downloaded(page, '#save_hole')[1])[..., 0] > 0).mean()

    seen = [share()]
    assert seen == [0]
    for name in ('eyes', 'nose', 'mouth', 'scratch'):
        page.click(f'[data-hole={name}]')
        seen.append(share())
    assert (np.diff(seen) > 0).all()
    page.click('[data-tool=erase]')
    page.locator('#brush').fill('160')
    paint(page, (0.3, 0.4), (0.7, 0.4))
    assert share() < seen[-1]
    page.click('#undo')
    assert share() == seen[-1]
    page.keyboard.press('Control+z')
    assert share() == seen[-2]
    page.keyboard.press('Control+Shift+z')
    assert share() == seen[-1]
    page.click('#clear')
    assert share() == 0


def test_a_saved_hole_opens_again(opened, url, photo, tmp_path):
    page = opened(url)
    drop(page, photo)
    paint(page, (0.4, 0.4), (0.6, 0.5))
    first = downloaded(page, '#save_hole')[1]
    first.save(tmp_path / 'hole.png')
    page.click('#clear')
    page.set_input_files('#hole_file', tmp_path / 'hole.png')
    page.wait_for_timeout(200)
    np.testing.assert_array_equal(downloaded(page, '#save_hole')[1], first)
    first.crop((0, 0, 100, 299)).save(tmp_path / 'other.png')
    page.set_input_files('#hole_file', tmp_path / 'other.png')
    page.wait_for_selector('#message.bad:has-text("not the same shape")')


def test_all_of_it_works_by_keyboard(opened, url, photo):
    page = opened(url)
    drop(page, photo)
    page.focus('#picture')
    for key in ('ArrowDown', 'ArrowDown', 'Space', 'ArrowRight', 'Space'):
        page.keyboard.press(key)
    page.keyboard.press('m')
    dot = page.locator('.dot[tabindex="0"]')
    assert dot.count() == 1  # one stop of the Tab key for all 68
    dot.focus()
    page.keyboard.press('.')
    label = page.locator('.dot:focus').get_attribute('aria-label')
    assert re.fullmatch(r'nose 5: \d+, \d+', label)
    page.locator('#reach').select_option('part')
    page.locator('.dot[tabindex="0"]').focus()
    before = points(page)
    page.keyboard.press('ArrowLeft')
    page.keyboard.press('Shift+ArrowUp')
    away = points(page) - before
    assert (away[27:36, 0] < 0).all() and not away[:27].any()
    np.testing.assert_allclose(away[27:36, 1], 10 * away[27:36, 0], atol=1.5)
    page.keyboard.press('Control+z')
    page.keyboard.press('Control+z')
    np.testing.assert_allclose(points(page), before)
    page.focus('#complete')
    page.keyboard.press('Enter')
    page.wait_for_selector('.thumb[aria-pressed=true]')
    page.focus('#save_png')
    with page.expect_download():
        page.keyboard.press('Enter')


def test_results_are_compared_varied_and_taken_over(opened, url, photo):
    page = opened(url)
    drop(page, photo)
    page.click('[data-hole=mouth]')
    completed(page)
    picture = page.locator('#picture')
    page.wait_for_timeout(200)
    result = picture.screenshot()
    page.check('#differ')
    page.wait_for_timeout(100)
    assert picture.screenshot() != result
    page.uncheck('#differ')
    page.hover('#compare')
    page.mouse.down()
    page.wait_for_selector('#seen:has-text("The photo")')
    page.mouse.up()
    page.click('#vary')
    assert 'Around result 1' in page.inner_text('#around')
    page.click('#complete')
    page.wait_for_selector('.run >> nth=0 >> text=Around result 1')
    kept, near = (
        ask(f'{url}/api/completions/{name}')[2]
        for name in reversed(
            [
                f'{run.get_attribute("data-result").replace("/", "/images/")}'
                for run in page.locator('.thumb:first-child').all()
            ]
        )
    )
    assert kept == near  # sample 0, the kept one, is among its variations
    assert page.locator('#vary').is_disabled()
    page.click('#take_points')
    assert page.locator('#structure').is_disabled()  # these points lead now


def test_completions_follow_points_that_move(opened, url, photo):
    page = opened(url)
    drop(page, photo)
    page.click('[data-hole=mouth]')
    page.locator('#count').fill('2')
    page.check('#live')
    pressed = page.locator('.thumb[aria-pressed=true]')

    def drag(index):
        stage = page.locator('#stage').bounding_box()
        x, y = points(page)[index] + [stage['x'], stage['y']]
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - 12, y - 8, steps=3)
        page.mouse.up()

    drag(48)
    pressed.wait_for()
    page.click('.thumb >> nth=1')
    first = pressed.get_attribute('data-result')
    assert first.endswith('/1') and page.locator('#overlay:not([hidden])').count() == 1
    drag(54)
    page.wait_for_selector(f'.thumb[aria-pressed=true]:not([data-result="{first}"])')
    assert pressed.get_attribute('data-result').endswith('/1')  # the draw that was looked at
    assert page.locator('.run').count() == 1  # in place of the one before
    page.click('.thumb >> nth=0')
    page.keyboard.press('Control+z')
    last = pressed.get_attribute('data-result')
    page.wait_for_selector(f'.thumb[aria-pressed=true]:not([data-result="{last}"])')


def test_a_completion_is_cancelled_here_and_on_the_server(opened, photo):
    restorer = PlainRestorer()
    restorer.go.clear()
    with serving(restorer) as url:
        page = opened(url)
        drop(page, photo)
        page.click('[data-hole=nose]')
        with page.expect_response('**/api/completions') as answer:
            page.click('#complete')
        name = answer.value.json()['id']
        page.wait_for_selector('#progress_text:has-text("Drawing")')
        with page.expect_response(lambda r: r.request.method == 'DELETE'):
            page.click('#cancel')
        page.wait_for_selector('#message:has-text("Cancelled")')
        assert page.locator('#complete').is_visible()
        while ask(f'{url}/api/completions/{name}')[0] != 404:
            page.wait_for_timeout(50)


def test_one_of_several_faces_is_chosen_or_marked_by_hand(opened, photo):
    class Two(PlainRestorer):
        def find(self, photo, hole=None):
            (one,) = super().find(photo, hole)
            small = one.landmarks * 0.25
            return [one, Face.of(small)]

        def predict(self, images, holes):
            from fi_jax.landmarks import MEAN_SHAPE

            return MEAN_SHAPE[None] * self.res - 0.5, np.ones((1, 68))

    with serving(Two()) as url:
        page = opened(url)
        drop(page, photo)
        large = np.ptp(points(page), axis=0)
        page.click('#faces >> text=Face 2')
        page.click('#zoom_all')
        np.testing.assert_allclose(np.ptp(points(page), axis=0), large / 4, rtol=0.05)
        page.click('#box')
        with page.expect_response('**/api/faces') as answer:
            paint(page, (0.4, 0.4), (0.6, 0.6))
        assert len(answer.value.json()['faces']) == 1
        page.wait_for_selector('.movable')


def test_what_goes_wrong_is_said(opened, url, photo, tmp_path):
    page = opened(url)
    (tmp_path / 'broken.png').write_bytes(photo.read_bytes()[:200])
    page.set_input_files('#photo', tmp_path / 'broken.png')
    page.wait_for_selector('#message.bad:has-text("broken.png: not a picture")')
    drop(page, photo)
    page.click('#complete')
    page.wait_for_selector('#message.bad:has-text("no hole yet")')


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_it_fits_a_phone_and_names_every_control(opened, url, photo, scheme):
    page = opened(url, 390, 844, has_touch=True, color_scheme=scheme)
    drop(page, photo)
    page.tap('[data-hole=mouth]')
    completed(page)
    wide = page.evaluate('() => document.documentElement.scrollWidth')
    assert wide <= 390
    assert page.locator('#complete').bounding_box()['y'] < 844
    nameless = page.locator('button:visible, input:visible, select:visible').evaluate_all(
        """all => all.filter(one => !(one.getAttribute('aria-label') || one.innerText.trim()
            || one.labels?.length || one.title)).map(one => one.outerHTML)"""
    )
    assert not nameless
    # Text stands out from its ground: at least 4.5 to 1 (WCAG 2.2, AA).
    ground, ink, soft, accent, on_accent = (
        page.evaluate('name => getComputedStyle(document.body).getPropertyValue(name)', f'--{name}')
        for name in ('card', 'ink', 'soft', 'accent', 'on-accent')
    )
    for one, other in ((ink, ground), (soft, ground), (on_accent, accent)):
        assert contrast(one, other) >= 4.5, (one, other)


def contrast(*colours):
    """The ratio of two colours' luminance, as WCAG 2 defines it."""
    lights = []
    for colour in colours:
        digits = colour.strip().lstrip('#')
        digits = ''.join(2 * d for d in digits) if len(digits) == 3 else digits
        rgb = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        lights.append(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    return max(lights) / min(lights)


def test_two_fingers_move_the_view_and_paint_nothing(opened, url, photo):
    page = opened(url, 390, 844, has_touch=True)
    drop(page, photo)
    line = page.context.new_cdp_session(page)
    before = np.ptp(points(page), axis=0)

    def touch(kind, *places):
        touches = [dict(zip('xy', at(page, *p), strict=True), id=i) for i, p in enumerate(places)]
        line.send('Input.dispatchTouchEvent', {'type': kind, 'touchPoints': touches})

    touch('touchStart', (0.45, 0.5))
    touch('touchStart', (0.45, 0.5), (0.55, 0.5))
    for step in range(1, 6):
        touch('touchMove', (0.45 - 0.05 * step, 0.5), (0.55 + 0.05 * step, 0.5))
    touch('touchEnd')
    page.wait_for_timeout(100)
    assert (np.ptp(points(page), axis=0) > 2 * before).all()
    assert page.locator('#undo').is_disabled()


def test_the_built_script_is_that_of_its_source(tmp_path):
    page = ROOT / 'fi_jax/serve/page'
    subprocess.run(['npx', 'tsc'], cwd=page, check=True)
    subprocess.run(['node', 'build.mjs', tmp_path / 'page.js'], cwd=page, check=True)
    built = (ROOT / 'fi_jax/serve/static/page.js').read_bytes()
    assert (tmp_path / 'page.js').read_bytes() == built, 'make page builds it anew'
