"""`stagecue bench fanout|connect|node-kill`: what a push node costs per delivery, per connect and per device."""
