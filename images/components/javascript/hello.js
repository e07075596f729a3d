// Answers by the last segment of the path: `hello`, `echo` (the body as it comes), `clock?count=5&ms=1000` (server-sent events).
addEventListener('fetch', (event) => event.respondWith(answer(event.request)));

function answer(request) {
  const url = new URL(request.url);
  switch (url.pathname.split('/').pop()) {
    case 'echo': {
      const type = request.headers.get('content-type') ?? 'application/octet-stream';
      return new Response(request.body, { headers: { 'content-type': type } });
    }
    case 'clock': {
      const count = Number(url.searchParams.get('count') ?? 5);
      const pause = Number(url.searchParams.get('ms') ?? 1000);
      return new Response(events(count, pause), { headers: { 'content-type': 'text/event-stream' } });
    }
    default:
      return new Response('Hello from a JavaScript component\n', { headers: { 'content-type': 'text/plain' } });
  }
}

// As many events, with pauses of so many milliseconds.
function events(count, pause) {
  const encoder = new TextEncoder();
  let tick = 0;
  return new ReadableStream({
    async pull(controller) {
      if (tick === count) return controller.close();
      if (tick > 0) await new Promise((done) => setTimeout(done, pause));
      controller.enqueue(encoder.encode(`id: ${tick}\ndata: ${Date.now()}\n\n`));
      tick += 1;
    },
  });
}
