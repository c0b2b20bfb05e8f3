"""Lists as people have them: CSV, CelebA's own text files, JSON, and patterns of names."""

import json
import pickle

import pytest

from fi_jax.input_pipeline import landmark_shards, lists


def write(tmp_path, text, name='list.txt'):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    'text',
    [
        '000001.jpg 2880\n000002.jpg 2937\n',  # CelebA's own: no titles
        '2\r\n000001.jpg  2880\r\n000002.jpg 2937\r\n',
        'file,identity\n000001.jpg,2880\n000002.jpg,2937\n',
        '\ufefffile,identity\n000001.jpg,2880\n\n000002.jpg,2937\n',
        'image_id,name,identity\n000001.jpg,x,2880\n000002.jpg,y,2937\n',
        'image_id\tidentity\n000001.jpg\t2880\n000002.jpg\t2937\n',
        '000001.jpg,2880\n000002.jpg,2937\n',
    ],
)
def test_identities_of_every_form_are_the_same(tmp_path, text):
    found = lists.read_identities(write(tmp_path, text))
    assert found == {'000001.jpg': 2880, '000002.jpg': 2937}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'no rows'),
        ('file,identity\n', 'no rows'),
        ('file,identity\na.jpg,one\n', "line 2: 'a.jpg','one'"),
        ('file,identity\na.jpg,-1\n', "line 2: 'a.jpg','-1'"),
        ('file,identity\na.jpg\n', 'line 2.*expected a name and 1 values'),
        ('file,identity\na.jpg,1\nb.jpg,1\na.jpg,2\n', r'line 4: a\.jpg has two identities'),
        ('file,smiles,hat\na.jpg,1,1\n', r"columns \('smiles', 'hat'\); expected file,identity"),
        ('a.jpg\n', 'line 1.*expected a name and 1 values'),
        (b'file,identity\n\xff,1\n', 'not a CSV or text file'),
        (b'PK\x03\x04\x00\x80', 'not a CSV or text file'),
    ],
)
def test_a_bad_list_of_identities_names_its_line(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        lists.read_identities(path)
    assert str(caught.value).startswith(f'data.identities={path}: ')
    with pytest.raises(FileNotFoundError, match='no such file'):
        lists.read_identities(tmp_path / 'absent.csv')


ATTRIBUTES = {
    "CelebA's own": '2\nSmiling Young Age \n000001.jpg  1 -1 30\n000002.jpg -1 -1  7\n',
    'CelebA of Kaggle': 'image_id,Smiling,Young,Age\n000001.jpg,1,-1,30\n000002.jpg,-1,-1,7\n',
    'zeros and ones': 'file,Smiling,Young,Age\n000001.jpg,1,0,30\n000002.jpg,0,0,7\n',
}


@pytest.mark.parametrize('form', ATTRIBUTES)
def test_attributes_of_every_form_are_the_same(tmp_path, form):
    found = lists.read_attributes(write(tmp_path, ATTRIBUTES[form]))
    assert dict(pickle.loads(pickle.dumps(found))) == {
        '000001.jpg': {'Smiling': 1, 'Young': 0, 'Age': 30},
        '000002.jpg': {'Smiling': 0, 'Young': 0, 'Age': 7},
    }
    assert 'absent.jpg' not in found and found.get('absent.jpg') is None


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('file,Smiling\na.jpg,1\nb.jpg,yes\n', r'line 3: b\.jpg: invalid literal.*yes'),
        ('a.jpg,1\n', 'no line of titles'),
        ('2\nSmiling Young\na.jpg 1 -1\nb.jpg 1\n', 'line 4.*expected a name and 2 values'),
    ],
)
def test_bad_attributes_name_their_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        lists.read_attributes(write(tmp_path, text))


def test_a_partition_is_celeba_s_or_in_words(tmp_path):
    expected = {'1.jpg': 'train', '2.jpg': 'val', '3.jpg': 'test'}
    for text in (
        '1.jpg 0\n2.jpg 1\n3.jpg 2\n',
        'image_id,partition\n1.jpg,0\n2.jpg,1\n3.jpg,2\n',
        'file,partition\n1.jpg,Train\n2.jpg,validation\n3.jpg,test\n',
    ):
        assert lists.read_partition(write(tmp_path, text)) == expected
    for text in ('1.jpg 0\n2.jpg 3\n', '1.jpg 0\n1.jpg 1\n'):
        with pytest.raises(ValueError, match=r'line 2.*expected each file once'):
            lists.read_partition(write(tmp_path, text))


def test_a_pattern_reads_persons_and_attributes_off_a_name():
    lfw = lists.read_identities(r're:(.+)_\d{4}\.jpg$')
    assert lfw.get('notes.jpg') is None and 'notes.jpg' not in lfw
    assert lfw['Aaron_Eckhart_0001.jpg'] == lfw['Aaron_Eckhart_0002.jpg'] != lfw['Bo_Xu_0001.jpg']
    # Pinned: a number that changed between versions would move faces between splits.
    assert lists.number_of('Aaron_Eckhart') == lfw['Aaron_Eckhart_0001.jpg'] == PINNED
    utk = lists.read_attributes(r're:^(?P<age>\d+)_(?P<female>[01])_(?P<race>\d)_')
    copy = pickle.loads(pickle.dumps(utk))
    assert copy['26_1_2_20170116.jpg'] == {'age': 26, 'female': 1, 'race': 2}
    assert copy.get('39_1_20170116.jpg') is None


PINNED = 43445044534843


@pytest.mark.parametrize(
    ('read', 'pattern', 'message'),
    [
        (lists.read_identities, 're:(', 'no regular expression'),
        (lists.read_identities, r're:\d+', 'no group'),
        (lists.read_attributes, r're:(\d+)_', 'no named group'),
    ],
)
def test_a_pattern_that_is_none_is_refused(read, pattern, message):
    with pytest.raises(ValueError, match=message):
        read(pattern)


def test_points_and_groups_are_read_from_a_json_list_of_records(tmp_path):
    """As the landmarks of HELEN and AFW come: several faces of one photo share its group."""
    points = [[float(i), 2.0 * i] for i in range(68)]
    made = [
        {'file': f'afw/{i}.jpg', 'group': f'photo {i // 2}', 'points': points} for i in range(4)
    ]
    path = write(tmp_path, json.dumps(made), 'faces.json')
    persons = lists.read_identities(path)
    assert persons['afw/0.jpg'] == persons['afw/1.jpg'] != persons['afw/2.jpg']
    table = landmark_shards.read_table(path)
    assert set(table) == set(persons) and table['afw/3.jpg'].points.tolist() == points
    for bad, message in (
        ([{'file': 'a', 'points': points[:5]}], 'record 0: not 68 points'),
        ([{'points': points}], 'record 0: expected a list of records with file and points'),
        ({'file': 'a'}, 'expected a list of records'),
    ):
        with pytest.raises(ValueError, match=message):
            landmark_shards.read_table(write(tmp_path, json.dumps(bad), 'bad.json'))
    with pytest.raises(ValueError, match='not a readable'):
        landmark_shards.read_table(write(tmp_path, '[{"file"', 'bad.json'))


def test_celeba_s_five_points_are_refused_with_what_to_do(tmp_path):
    titles = ' '.join(f'{p}_{c}' for p in ('lefteye', 'righteye', 'nose') for c in 'xy')
    path = write(tmp_path, f'1\n{titles}\n000001.jpg 69 109 106 113 77 142\n')
    with pytest.raises(ValueError, match=r'5 points a face.*fi-jax landmarks'):
        landmark_shards.read_table(path)
