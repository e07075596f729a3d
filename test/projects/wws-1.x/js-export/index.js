export default {
  async fetch(request) {
    return new Response(await request.text(), { status: 201, headers: { "x-made-by": "default export" } });
  },
};
