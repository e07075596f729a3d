import { greet } from "./_lib/greet.js";

addEventListener("fetch", event => event.respondWith(new Response(greet("modules"))));
