// The peer of JavaScript workers: Fastify with the same answer. `node fastify.js PORT`
import Fastify from "fastify";

const app = Fastify();
app.get("/hello", (request, reply) => {
  reply.type("text/plain").send("Hello from a worker\n");
});
await app.listen({ host: "127.0.0.1", port: Number(process.argv[2]) });
