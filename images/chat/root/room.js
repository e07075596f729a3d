// A chat room over WebSockets. Each socket has an instance of its own, so what the members of the room share is in the key/value
// store: a counter, and the last messages by their numbers. Each instance looks for new messages a few times each second.
const KEPT = 50;
const INTERVAL = 200;
const MAX_TEXT = 1000;
// A message whose number is taken and which is not stored after so many looks was never sent.
const PATIENCE = 5;

const key = (number) => `message-${number}`;
const last = () => Number(Cache.get("last") ?? 0);

export default {
  fetch(request, env) {
    if (request.headers.get("upgrade") !== "websocket") {
      return new Response("This is a WebSocket.\n", { status: 426 });
    }
    // A page of another site must not talk in its visitor's name.
    const origin = request.headers.get("origin");
    if (origin !== null && new URL(origin).host !== new URL(request.url).host) {
      return new Response("This site is not allowed.\n", { status: 403 });
    }
    const name = (new URL(request.url).searchParams.get("name") ?? "").slice(0, 40) || "somebody";
    const [client, server] = Object.values(new WebSocketPair());

    let seen = Math.max(0, last() - KEPT);
    let looks = 0;
    const show = () => {
      for (; seen < last(); seen++) {
        const message = Cache.get(key(seen + 1));
        if (message === undefined && looks++ < PATIENCE) return;
        looks = 0;
        if (message !== undefined) server.send(message);
      }
    };
    const say = async (text) => {
      const number = await Cache.increment("last");
      Cache.set(key(number), JSON.stringify({ name, text, at: new Date().toISOString() }));
      Cache.delete(key(number - KEPT));
    };

    server.accept();
    server.addEventListener("message", ({ data }) => {
      if (typeof data !== "string" || data.length > MAX_TEXT) server.close(1009, "too long");
      else return say(data);
    });
    const timer = setInterval(show, INTERVAL);
    server.addEventListener("close", () => {
      clearInterval(timer);
      return say("has left");
    });
    return new Response(null, { status: 101, webSocket: client });
  },
};
