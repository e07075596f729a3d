const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

addEventListener("fetch", async (event) => {
  event.respondWith((async () => {
    await sleep(5);
    return new Response("after a while");
  })());
});
