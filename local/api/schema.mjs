// Prints the DDL of the auth and storage schemas as JSON; local/database/ applies each as the role that owns it.
import { getAuthSchemaSql, getStorageSchemaSql } from '@supabase/lite';

process.stdout.write(JSON.stringify({ auth: getAuthSchemaSql('postgres'), storage: getStorageSchemaSql('postgres') }));
