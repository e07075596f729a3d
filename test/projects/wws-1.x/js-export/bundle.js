// As bundlers write it.
var app = { fetch(request) { return new Response(request.headers.get("accept")); } };
var src_default = app;
export {
  src_default as default
};
