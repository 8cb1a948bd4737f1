"""A bucket of Google Cloud Storage on this machine, as gcsfs, TensorStore and Google's client ask.

https://cloud.google.com/storage/docs/json_api describes the requests.
"""

import contextlib
import http.server
import itertools
import json
import re
import threading
import urllib.parse


class Bucket:
    """Objects by name; `refuse` is the status of all answers, `on_write` sees each write."""

    def __init__(self, name='bucket'):
        self.name = name
        self.objects = {}  # name -> (content, generation)
        self.refuse = None
        self.on_write = lambda name: None
        self.uploads = {}
        self.counter = itertools.count(1)
        self.lock = threading.Lock()

    def put(self, name, content):
        self.on_write(name)
        with self.lock:
            self.objects[name] = content, next(self.counter)
        return self.describe(name)

    def describe(self, name):
        content, generation = self.objects[name]
        return {
            'kind': 'storage#object',
            'name': name,
            'bucket': self.name,
            'size': str(len(content)),
            'generation': str(generation),
            'metageneration': '1',
            'updated': '2026-01-01T00:00:00.000000Z',
            'timeCreated': '2026-01-01T00:00:00.000000Z',
        }

    def list(self, prefix='', delimiter='', startOffset='', endOffset='', maxResults='1000', **_):
        items, prefixes = [], {}
        with self.lock:
            for name in sorted(self.objects):
                in_range = startOffset <= name and (not endOffset or name < endOffset)
                if not (name.startswith(prefix) and in_range):
                    continue
                head, found, _ = name[len(prefix) :].partition(delimiter or '\0')
                if found:
                    prefixes[prefix + head + delimiter] = None
                else:
                    items.append(self.describe(name))
        assert len(items) < 1000, 'pages are not made here'
        found = {'kind': 'storage#objects', 'items': items, 'prefixes': list(prefixes)}
        return {name: value for name, value in found.items() if value}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    wbufsize = -1  # an answer is one packet
    disable_nagle_algorithm = True
    bucket: Bucket

    def log_message(self, *arguments):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):  # clients stop listening, or are killed
            super().handle()

    def answer(self, status, content=b'', **headers):
        if isinstance(content, dict):
            content = json.dumps(content).encode()
            headers['Content_Type'] = 'application/json'
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def fail(self, status, message='no'):
        self.answer(status, {'error': {'code': status, 'message': message}})

    def handle_request(self):
        bucket = self.bucket
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        url = urllib.parse.urlsplit(self.path)
        options = dict(urllib.parse.parse_qsl(url.query))
        match = re.fullmatch(r'(/upload|/download)?/storage/v1/b/([^/]*)(/o(?:/(.*))?)?', url.path)
        if bucket.refuse:
            return self.fail(bucket.refuse, 'Anonymous caller may not do this')
        if match is None or match[2] != bucket.name:
            return self.fail(404, 'The specified bucket does not exist.')
        name = match[4] and urllib.parse.unquote(match[4])
        if not match[3]:
            return self.answer(200, {'kind': 'storage#bucket', 'name': bucket.name})
        if match[1] == '/upload':
            return self.upload(options, body)
        if name is None:
            return self.answer(200, bucket.list(**options))
        _, generation = bucket.objects.get(name, (None, 0))
        if 'ifGenerationMatch' in options and int(options['ifGenerationMatch']) != generation:
            return self.fail(412)
        if not generation:
            return self.fail(404)
        if self.command == 'DELETE':
            bucket.objects.pop(name, None)
            return self.answer(204)
        if options.get('ifGenerationNotMatch') == str(generation):
            return self.answer(304)
        if options.get('alt') == 'media':
            return self.download(*bucket.objects[name])
        return self.answer(200, bucket.describe(name))

    def download(self, content, generation):
        wanted = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', ''))
        headers = {'x_goog_generation': str(generation), 'Content_Type': 'application/octet-stream'}
        if wanted is None:
            return self.answer(200, content, **headers)
        size = len(content)
        if wanted[1]:
            first, last = int(wanted[1]), int(wanted[2] or size - 1)
        else:
            first, last = max(size - int(wanted[2]), 0), size - 1
        last = min(last, size - 1)
        if first >= size:
            return self.fail(416)
        headers['Content_Range'] = f'bytes {first}-{last}/{size}'
        return self.answer(206, content[first : last + 1], **headers)

    def upload(self, options, body):
        bucket, kind = self.bucket, options['uploadType']
        if kind == 'multipart':
            boundary = re.search(r"boundary=['\"]?([^'\"; ]+)", self.headers['Content-Type'])[1]
            _, first, second, _ = body.split(f'--{boundary}'.encode())
            about = json.loads(first.partition(b'\n\n')[2] or first.partition(b'\r\n\r\n')[2])
            content = re.split(rb'\r?\n\r?\n', second, maxsplit=1)[1]
            return self.answer(200, bucket.put(about['name'], re.sub(rb'\r?\n\Z', b'', content)))
        if kind == 'resumable':
            upload = options.get('upload_id') or str(next(bucket.counter))
            if 'upload_id' not in options:
                bucket.uploads[upload] = options['name'], b''
                host = self.headers['Host']
                path = f'http://{host}{urllib.parse.urlsplit(self.path).path}'
                location = f'{path}?uploadType=resumable&upload_id={upload}'
                return self.answer(200, Location=location)
            name, content = bucket.uploads[upload]
            bucket.uploads[upload] = name, content + body
            if self.headers['Content-Range'].endswith('/*'):
                return self.answer(308, Range=f'bytes=0-{len(content + body) - 1}')
            return self.answer(200, bucket.put(name, bucket.uploads.pop(upload)[1]))
        _, generation = bucket.objects.get(options['name'], (None, 0))
        if int(options.get('ifGenerationMatch', generation)) != generation:
            return self.fail(412)
        return self.answer(200, bucket.put(options['name'], body))

    do_GET = do_POST = do_PUT = do_DELETE = handle_request


@contextlib.contextmanager
def served(bucket):
    """Yields the environment in which the clients find the bucket."""
    handler = type('HandlerOfBucket', (Handler,), {'bucket': bucket})
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}'
        yield {
            'STORAGE_EMULATOR_HOST': address,
            'TENSORSTORE_GCS_HTTP_URL': address,
            'GCE_METADATA_ROOT': address.removeprefix('http://'),
            'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
            'NO_GCE_CHECK': 'true',
        }
        server.shutdown()
