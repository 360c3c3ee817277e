// Makes Node's fetch and WebSocket obey HTTPS_PROXY where Node itself does not yet (before 22.21):
// NODE_OPTIONS="--experimental-websocket --require .../env-proxy.cjs", with npm's undici installed.
const { EnvHttpProxyAgent, setGlobalDispatcher } = require("undici");
setGlobalDispatcher(new EnvHttpProxyAgent());
