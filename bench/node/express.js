// The usual Express gateway: http-proxy-middleware with kept connections.
'use strict';
const express = require('express');
const { createProxyMiddleware } = require('http-proxy-middleware');
const { agent, origin, serve } = require('./server');

const app = express();
app.disable('x-powered-by');
app.use(createProxyMiddleware({ target: origin, changeOrigin: true, xfwd: true, agent }));
serve(app);
